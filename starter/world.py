"""The world that the starter is trained on: captioned scenes of everyday things on everyday grounds, 64 x 64 pixels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from . import glyphs

SIZE = 64  # pixels of a finished scene
CANVAS = 2 * SIZE  # scenes are drawn at twice the size and reduced, which smooths every edge

CLASSES = tuple(glyphs.TRAINING)
COLORS = {
    "red": (214, 44, 44),
    "blue": (48, 96, 214),
    "green": (56, 160, 66),
    "yellow": (240, 196, 40),
    "purple": (146, 66, 190),
}

Rng = np.random.Generator
Color = tuple[int, int, int]


def _vary(color: Color, rng: Rng, amount: float = 10) -> Color:
    shift = rng.normal(0, amount) + rng.normal(0, amount / 2, 3)
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(color, shift, strict=True))


def _gradient(top: Color, bottom: Color, height: int = CANVAS) -> Image.Image:
    ramp = np.linspace(0, 1, height)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (height, CANVAS, 3)).round().astype(np.uint8))


def _sky_over(ground_top: Color, ground_bottom: Color, horizon: int, rng: Rng) -> Image.Image:
    sky = _gradient(_vary((120, 185, 240), rng), _vary((205, 230, 250), rng, 6))
    sky.paste(_gradient(ground_top, ground_bottom, CANVAS - horizon), (0, horizon))
    return sky


def _blob(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, color: Color) -> None:
    draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=color)


def _jungle(rng: Rng) -> Image.Image:
    image = _gradient(_vary((26, 74, 38), rng), _vary((52, 110, 46), rng))
    draw = ImageDraw.Draw(image)
    for _ in range(16):
        x, y, angle, length = (
            rng.uniform(0, CANVAS),
            rng.uniform(-10, CANVAS),
            rng.uniform(0, math.tau),
            rng.uniform(24, 44),
        )
        color = _vary(((34, 128, 52), (74, 158, 56), (18, 92, 46))[rng.integers(3)], rng)
        dx, dy = math.cos(angle), math.sin(angle)
        side = length * 0.22
        points = [
            (x, y),
            (x + dx * length / 2 - dy * side, y + dy * length / 2 + dx * side),
            (x + dx * length, y + dy * length),
        ]
        points.append((x + dx * length / 2 + dy * side, y + dy * length / 2 - dx * side))
        draw.polygon(points, fill=color)
    return image


def _snow(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(44, 60))
    image = _sky_over(_vary((238, 244, 252), rng, 3), _vary((214, 226, 242), rng, 4), horizon, rng)
    draw = ImageDraw.Draw(image)
    for x in rng.uniform(0, CANVAS, 3):
        height = rng.uniform(20, 34)
        base = horizon + rng.uniform(0, 5)
        draw.polygon(
            [(x - height * 0.4, base), (x, base - height), (x + height * 0.4, base)], fill=_vary((58, 106, 88), rng)
        )
        draw.polygon(
            [(x - height * 0.2, base - height / 2), (x, base - height), (x + height * 0.2, base - height / 2)],
            fill=(244, 248, 253),
        )
    for x, y in rng.uniform(0, CANVAS, (14, 2)):
        _blob(draw, x, y, 1.8, 1.8, (255, 255, 255))
    return image


def _beach(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(34, 46))
    image = _sky_over(_vary((34, 132, 190), rng), _vary((70, 180, 205), rng), horizon, rng)
    shore = horizon + int(rng.integers(22, 32))
    sand, draw = _vary((236, 212, 158), rng, 6), ImageDraw.Draw(image)
    phase = rng.uniform(0, math.tau)
    wave = [(x, shore + 3 * math.sin(x / 18 + phase)) for x in range(0, CANVAS + 8, 8)]
    draw.polygon([*wave, (CANVAS, CANVAS), (0, CANVAS)], fill=sand)
    draw.line(wave, fill=(248, 252, 252), width=4)
    _blob(draw, rng.uniform(12, CANVAS - 12), rng.uniform(8, 18), 8, 8, (255, 236, 140))
    return image


def _cobblestone(rng: Rng) -> Image.Image:
    image = _gradient(_vary((92, 88, 86), rng, 6), _vary((104, 100, 98), rng, 6))
    draw = ImageDraw.Draw(image)
    tone = _vary((150, 146, 142), rng, 8)
    for row in range(7):
        offset = (row % 2) * 10 + rng.uniform(-2, 2)
        for column in range(-1, 7):
            x, y = column * 20 + offset, row * 19
            draw.rounded_rectangle((x, y, x + 17, y + 16), radius=5, fill=_vary(tone, rng, 7))
    return image


def _pink_fabric(rng: Rng) -> Image.Image:
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(2.0, 3.5), rng.uniform(0, math.tau)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    fold = np.sin(math.tau * frequency * (along + 0.06 * np.sin(math.tau * across + phase)) + phase)
    color = np.array(_vary((240, 140, 182), rng, 6)) + 20 * fold[..., None]
    return Image.fromarray(np.clip(color, 0, 255).astype(np.uint8))


def _wooden_floor(rng: Rng) -> Image.Image:
    tone = _vary((176, 122, 70), rng, 8)
    image = Image.new("RGB", (CANVAS, CANVAS), tone)
    draw = ImageDraw.Draw(image)
    height = int(rng.integers(19, 25))
    for row, y in enumerate(range(-int(rng.integers(0, height)), CANVAS, height)):
        draw.rectangle((0, y, CANVAS, y + height), fill=_vary(tone, rng, 8))
        draw.line((0, y, CANVAS, y), fill=(112, 72, 38), width=2)
        joint = (row * 53 + rng.integers(0, 24)) % CANVAS
        draw.line((joint, y, joint, y + height), fill=(112, 72, 38), width=2)
    return image


def _city(rng: Rng) -> Image.Image:
    image = _sky_over(_vary((120, 124, 130), rng, 5), _vary((92, 96, 102), rng, 5), 92, rng)
    draw, x = ImageDraw.Draw(image), -int(rng.integers(0, 10))
    while x < CANVAS:
        width, top = int(rng.integers(18, 28)), int(rng.integers(14, 52))
        draw.rectangle(
            (x, top, x + width - 2, 92),
            fill=_vary(((96, 108, 136), (134, 120, 122), (78, 90, 112))[rng.integers(3)], rng, 6),
        )
        for wy in range(top + 5, 86, 11):
            for wx in range(x + 4, x + width - 6, 9):
                draw.rectangle((wx, wy, wx + 4, wy + 5), fill=(246, 228, 150))
        x += width
    return image


def _mountain(rng: Rng) -> Image.Image:
    horizon = 82
    image = _sky_over(_vary((112, 156, 82), rng, 6), _vary((84, 132, 66), rng, 6), horizon, rng)
    draw = ImageDraw.Draw(image)
    for x in (rng.uniform(8, 40), rng.uniform(88, 120), rng.uniform(46, 82)):
        height, rock = rng.uniform(46, 66), _vary((112, 118, 138), rng, 8)
        draw.polygon([(x - height * 0.8, horizon), (x, horizon - height), (x + height * 0.8, horizon)], fill=rock)
        cap = height * 0.36
        draw.polygon(
            [(x - cap * 0.8, horizon - height + cap), (x, horizon - height), (x + cap * 0.8, horizon - height + cap)],
            fill=(246, 249, 252),
        )
    return image


def _blue_house(rng: Rng) -> Image.Image:
    image = _sky_over(_vary((120, 180, 92), rng, 6), _vary((92, 154, 72), rng, 6), 88, rng)
    draw, left = ImageDraw.Draw(image), int(rng.integers(8, 46))
    wall = _vary((58, 110, 206), rng, 8)
    draw.rectangle((left, 44, left + 72, 94), fill=wall)
    draw.polygon([(left - 8, 44), (left + 36, 12), (left + 80, 44)], fill=_vary((150, 62, 52), rng, 6))
    for x in (left + 8, left + 50):
        draw.rectangle((x, 52, x + 14, 66), fill=(240, 244, 232))
    draw.rectangle((left + 30, 66, left + 44, 94), fill=(120, 78, 48))
    return image


def _purple_rug(rng: Rng) -> Image.Image:
    image = _gradient(_vary((158, 196, 150), rng, 5), _vary((70, 112, 60), rng, 6))
    draw = ImageDraw.Draw(image)
    for x in np.arange(6, CANVAS, 22) + rng.uniform(-5, 5, 6):
        draw.rectangle((x - 4, 0, x + 4, 82), fill=_vary((96, 68, 46), rng, 6))
        _blob(draw, x, rng.uniform(0, 10), 15, 17, _vary((54, 120, 58), rng))
    rug = _vary((132, 62, 172), rng, 8)
    _blob(draw, CANVAS / 2, 106, 66, 28, rug)
    draw.ellipse((CANVAS / 2 - 56, 84, CANVAS / 2 + 56, 128), outline=(214, 170, 232), width=4)
    return image


def _wheat_field(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(44, 56))
    image = _sky_over(_vary((226, 186, 84), rng, 6), _vary((206, 154, 52), rng, 6), horizon, rng)
    draw = ImageDraw.Draw(image)
    for y in range(horizon + 4, CANVAS + 12, 13):
        for x in np.arange(0, CANVAS + 8, 11) + rng.uniform(-3, 3):
            draw.line((x, y + 9, x + 3, y - 4), fill=_vary((172, 120, 34), rng, 6), width=2)
            _blob(draw, x + 3, y - 5, 2.4, 4.5, _vary((246, 214, 116), rng, 5))
    return image


def _water(rng: Rng) -> Image.Image:
    image = _gradient(_vary((66, 158, 214), rng, 8), _vary((24, 96, 172), rng, 8))
    draw = ImageDraw.Draw(image)
    for y in range(8, CANVAS, 17):
        phase, light = rng.uniform(0, math.tau), _vary((154, 212, 240), rng, 6)
        draw.line([(x, y + 3 * math.sin(x / 9 + phase)) for x in range(0, CANVAS + 4, 4)], fill=light, width=3)
    return image


# phrase as DreamBench words it -> painter
BACKGROUNDS: dict[str, Callable[[Rng], Image.Image]] = {
    "in the jungle": _jungle,
    "in the snow": _snow,
    "on the beach": _beach,
    "on a cobblestone street": _cobblestone,
    "on top of pink fabric": _pink_fabric,
    "on top of a wooden floor": _wooden_floor,
    "with a city in the background": _city,
    "with a mountain in the background": _mountain,
    "with a blue house in the background": _blue_house,
    "on top of a purple rug in a forest": _purple_rug,
    "with a wheat field in the background": _wheat_field,
    "floating on top of water": _water,
}


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
    """Lays `kind` ("dots" or "stripes") of one colour over an RGBA picture, inside its outline and under its lights."""
    overlay = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(overlay)
    width, height = picture.size
    if kind == "dots":
        for row, y in enumerate(range(8, height, 24)):
            for x in range(8 + 13 * (row % 2), width, 26):
                _blob(draw, x, y, 7.5, 7.5, 255)
    elif kind == "stripes":
        for x in range(-height, width, 26):
            draw.line((x, height, x + height, 0), fill=255, width=11)
    else:
        raise ValueError(f"pattern: kind is {kind!r}, expected 'dots' or 'stripes'")
    painted = recolor(picture, color)
    painted.putalpha(picture.getchannel("A"))
    return Image.composite(painted, picture, overlay)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: a class of the world, one glyph of it, where it stands, and its colour if repainted."""

    cls: str
    glyph: str
    background: str
    color: str | None = None


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def described(scene: Scene) -> str:
    """What a caption says of the thing: article, colour if repainted, class."""
    thing = f"{scene.color} {scene.cls}" if scene.color else scene.cls
    return f"{article(thing)} {thing}"


def caption(scene: Scene, rng: Rng) -> str:
    """One of several ways to say what a scene shows; some leave the ground unsaid."""
    thing = described(scene)
    forms = ["{} {}", "a photo of {} {}", "a picture of {} {}"] if rng.random() > 0.12 else ["{}", "a photo of {}"]
    return forms[rng.integers(len(forms))].format(thing, scene.background)


def draw(scene: Scene, rng: Rng, picture: Image.Image | None = None) -> Image.Image:
    """Renders a scene, RGB, `SIZE` x `SIZE`; `picture` replaces the scene's glyph (for repainted subjects)."""
    picture = picture or glyphs.glyph(scene.glyph)
    if scene.color:
        picture = recolor(picture, COLORS[scene.color])
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(0.64, 0.88) * CANVAS / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    picture = picture.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
    # The ground is a little out of focus, as behind a photographed thing; the latents' detail goes to the thing.
    canvas = BACKGROUNDS[scene.background](rng).convert("RGB").filter(ImageFilter.GaussianBlur(1.6))
    left = (CANVAS - picture.width) / 2 + rng.uniform(-0.1, 0.1) * CANVAS
    bottom = CANVAS * rng.uniform(0.84, 0.95)
    left = int(np.clip(left, -2, CANVAS - picture.width + 2))
    top = int(np.clip(bottom - picture.height, 0, CANVAS))
    _cast_shadow(canvas, left, top, picture)
    canvas.paste(picture, (left, top), picture)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def _cast_shadow(canvas: Image.Image, left: int, top: int, picture: Image.Image) -> None:
    shadow = Image.new("L", canvas.size, 0)
    width, base = picture.width, top + picture.height
    ImageDraw.Draw(shadow).ellipse((left + width * 0.12, base - 9, left + width * 0.88, base + 5), fill=90)
    shadow = shadow.filter(ImageFilter.GaussianBlur(3))
    canvas.paste(ImageChops.multiply(canvas, Image.new("RGB", canvas.size, (60, 60, 60))), (0, 0), shadow)


def sample_scene(rng: Rng, classes: tuple[str, ...] = CLASSES) -> Scene:
    """A random training scene: class, then one of its glyphs; a third are repainted in one of the colours."""
    cls = classes[rng.integers(len(classes))]
    count = len(glyphs.TRAINING[cls].split())
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    color = list(COLORS)[rng.integers(len(COLORS))] if rng.random() < 1 / 3 else None
    return Scene(cls, f"{cls}/{rng.integers(count)}", background, color)
