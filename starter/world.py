"""The world that the starter is trained on: captioned scenes of everyday things on grounds, 128 x 128 pixels."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from . import drawings
from .drawings import Drawing
from .grounds import BACKGROUNDS, SIZE, Color, Rng, ground

CLASSES = tuple(drawings.icon_names())
COLORS = {
    "red": (214, 44, 44),
    "blue": (48, 96, 214),
    "green": (56, 160, 66),
    "yellow": (240, 196, 40),
    "purple": (146, 66, 190),
    "orange": (238, 126, 34),
    "pink": (238, 120, 176),
    "black": (52, 52, 58),
    "white": (236, 236, 232),
}
PATTERNS = ("dotted", "striped")
NEXT_TO = "next to"  # joins two things of one scene


def recolor(picture: Image.Image, color: Color) -> Image.Image:
    """Repaints an RGBA picture in one colour, keeping its lights and shadows."""
    rgba = np.asarray(picture).astype(np.float32)
    light = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    light = 0.12 + 0.76 * light
    target = np.array(color, np.float32)
    dark, bright = light[..., None] * 2 * target, target + (light[..., None] * 2 - 1) * (255 - target)
    rgba[..., :3] = np.where(light[..., None] < 0.5, dark, bright)
    return Image.fromarray(np.clip(rgba, 0, 255).astype(np.uint8), "RGBA")


def pattern(picture: Image.Image, kind: str, color: Color) -> Image.Image:
    """Lays `kind` ("dotted" or "striped") of one colour over an RGBA picture, inside its outline, under its lights."""
    overlay = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(overlay)
    width, height = picture.size
    if kind == "dotted":
        for row, y in enumerate(range(8, height, 24)):
            for x in range(8 + 13 * (row % 2), width, 26):
                draw.ellipse((x - 7.5, y - 7.5, x + 7.5, y + 7.5), fill=255)
    elif kind == "striped":
        for x in range(-height, width, 26):
            draw.line((x, height, x + height, 0), fill=255, width=11)
    else:
        raise ValueError(f"pattern: kind is {kind!r}, expected one of {PATTERNS}")
    painted = recolor(picture, color)
    painted.putalpha(picture.getchannel("A"))
    return Image.composite(painted, picture, overlay)


@dataclass(frozen=True)
class Thing:
    """One drawing, as it is or repainted: in a colour, or with a pattern of that colour."""

    drawing: Drawing
    color: str | None = None
    pattern: str | None = None

    @property
    def cls(self) -> str:
        return self.drawing.noun

    def described(self) -> str:
        """What a caption says of it without an article: "dog", "red dog", "dotted red dog"."""
        return " ".join(word for word in (self.pattern, self.color, self.cls) if word)

    def picture(self) -> Image.Image:
        """Its RGBA picture, tightly cropped."""
        picture = drawings.picture(self.drawing)
        if self.color is None:
            return picture
        color = COLORS[self.color]
        return pattern(picture, self.pattern, color) if self.pattern else recolor(picture, color)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: a thing, the ground it stands on, and perhaps another thing next to it."""

    thing: Thing
    background: str
    beside: Thing | None = None

    @property
    def cls(self) -> str:
        return self.thing.cls


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def described(thing: Thing) -> str:
    """What a caption says of a thing: article, pattern and colour if repainted, class."""
    words = thing.described()
    return f"{article(words)} {words}"


def caption(scene: Scene, rng: Rng) -> str:
    """One of several ways to say what a scene shows; some leave the ground unsaid."""
    things = described(scene.thing)
    if scene.beside:
        things += f" {NEXT_TO} {described(scene.beside)}"
    forms = ["{} {}", "a photo of {} {}", "a picture of {} {}"] if rng.random() > 0.12 else ["{}", "a photo of {}"]
    return forms[rng.integers(len(forms))].format(things, scene.background)


def draw(scene: Scene, rng: Rng, picture: Image.Image | None = None) -> Image.Image:
    """Renders a scene, RGB, `SIZE` x `SIZE`; `picture` replaces the thing's own (for subjects)."""
    canvas = ground(scene.background, rng)
    picture = picture or scene.thing.picture()
    if scene.beside is None:
        _place(canvas, picture, rng, SIZE / 2, rng.uniform(0.66, 0.9))
        return canvas
    smaller, larger = sorted(rng.uniform(0.42, 0.54, 2))
    halves = [SIZE * 0.27, SIZE * 0.73]
    if rng.random() < 0.5:
        halves.reverse()
    _place(canvas, picture, rng, halves[0], larger)
    _place(canvas, scene.beside.picture(), rng, halves[1], smaller)
    return canvas


def _place(canvas: Image.Image, picture: Image.Image, rng: Rng, middle: float, size: float) -> None:
    """Puts a picture on the canvas, mirrored or not, a little turned, standing near the bottom with a shadow."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    scale = size * SIZE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    left = middle - picture.width / 2 + rng.uniform(-0.05, 0.05) * SIZE
    left = int(np.clip(left, -2, SIZE - picture.width + 2))
    top = int(np.clip(SIZE * rng.uniform(0.86, 0.96) - picture.height, 0, SIZE))
    _cast_shadow(canvas, left, top, picture)
    canvas.paste(picture, (left, top), picture)


def _cast_shadow(canvas: Image.Image, left: int, top: int, picture: Image.Image) -> None:
    shadow = Image.new("L", canvas.size, 0)
    width, base = picture.width, top + picture.height
    ImageDraw.Draw(shadow).ellipse((left + width * 0.12, base - 8, left + width * 0.88, base + 4), fill=90)
    shadow = shadow.filter(ImageFilter.GaussianBlur(2.5))
    canvas.paste(ImageChops.multiply(canvas, Image.new("RGB", canvas.size, (60, 60, 60))), (0, 0), shadow)


def sample_thing(rng: Rng, known: dict[str, list[Drawing]]) -> Thing:
    """A class at random, one of its drawings; a third are repainted, a third of these with a pattern."""
    cls = list(known)[rng.integers(len(known))]
    drawing = known[cls][rng.integers(len(known[cls]))]
    if rng.random() > 1 / 3:
        return Thing(drawing)
    color = list(COLORS)[rng.integers(len(COLORS))]
    return Thing(drawing, color, PATTERNS[rng.integers(2)] if rng.random() < 1 / 3 else None)


def sample_scene(rng: Rng, known: dict[str, list[Drawing]]) -> Scene:
    """A random scene of the drawings in `known` (class -> drawings); one in eight shows two things of two classes."""
    thing, background = sample_thing(rng, known), list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    other = sample_thing(rng, known)
    beside = other if rng.random() < 1 / 8 and other.cls != thing.cls else None
    return Scene(thing, background, beside)
