"""The grounds of the world: one painter for each phrase that tells where a thing is, worded as DreamBench words it."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # pixels of a ground and of a finished scene
SOFTNESS = 1.1  # pixels; the ground is a little out of focus, as behind a photographed thing

Rng = np.random.Generator
Color = tuple[int, int, int]


def _vary(color: Color, rng: Rng, amount: float = 10) -> Color:
    shift = rng.normal(0, amount) + rng.normal(0, amount / 2, 3)
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(color, shift, strict=True))


def _gradient(top: Color, bottom: Color, height: int = SIZE) -> Image.Image:
    ramp = np.linspace(0, 1, height)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (height, SIZE, 3)).round().astype(np.uint8))


def _sky_over(ground_top: Color, ground_bottom: Color, horizon: int, rng: Rng) -> Image.Image:
    sky = _gradient(_vary((120, 185, 240), rng), _vary((205, 230, 250), rng, 6))
    sky.paste(_gradient(ground_top, ground_bottom, SIZE - horizon), (0, horizon))
    return sky


def _blob(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, color: Color) -> None:
    draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=color)


def _jungle(rng: Rng) -> Image.Image:
    image = _gradient(_vary((26, 74, 38), rng), _vary((52, 110, 46), rng))
    draw = ImageDraw.Draw(image)
    for _ in range(16):
        x, y, angle, length = (
            rng.uniform(0, SIZE),
            rng.uniform(-10, SIZE),
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
    for x in rng.uniform(0, SIZE, 3):
        height = rng.uniform(20, 34)
        base = horizon + rng.uniform(0, 5)
        draw.polygon(
            [(x - height * 0.4, base), (x, base - height), (x + height * 0.4, base)], fill=_vary((58, 106, 88), rng)
        )
        draw.polygon(
            [(x - height * 0.2, base - height / 2), (x, base - height), (x + height * 0.2, base - height / 2)],
            fill=(244, 248, 253),
        )
    for x, y in rng.uniform(0, SIZE, (14, 2)):
        _blob(draw, x, y, 1.8, 1.8, (255, 255, 255))
    return image


def _beach(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(34, 46))
    image = _sky_over(_vary((34, 132, 190), rng), _vary((70, 180, 205), rng), horizon, rng)
    shore = horizon + int(rng.integers(22, 32))
    sand, draw = _vary((236, 212, 158), rng, 6), ImageDraw.Draw(image)
    phase = rng.uniform(0, math.tau)
    wave = [(x, shore + 3 * math.sin(x / 18 + phase)) for x in range(0, SIZE + 8, 8)]
    draw.polygon([*wave, (SIZE, SIZE), (0, SIZE)], fill=sand)
    draw.line(wave, fill=(248, 252, 252), width=4)
    _blob(draw, rng.uniform(12, SIZE - 12), rng.uniform(8, 18), 8, 8, (255, 236, 140))
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
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(2.0, 3.5), rng.uniform(0, math.tau)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    fold = np.sin(math.tau * frequency * (along + 0.06 * np.sin(math.tau * across + phase)) + phase)
    color = np.array(_vary((240, 140, 182), rng, 6)) + 20 * fold[..., None]
    return Image.fromarray(np.clip(color, 0, 255).astype(np.uint8))


def _wooden_floor(rng: Rng) -> Image.Image:
    tone = _vary((176, 122, 70), rng, 8)
    image = Image.new("RGB", (SIZE, SIZE), tone)
    draw = ImageDraw.Draw(image)
    height = int(rng.integers(19, 25))
    for row, y in enumerate(range(-int(rng.integers(0, height)), SIZE, height)):
        draw.rectangle((0, y, SIZE, y + height), fill=_vary(tone, rng, 8))
        draw.line((0, y, SIZE, y), fill=(112, 72, 38), width=2)
        joint = (row * 53 + rng.integers(0, 24)) % SIZE
        draw.line((joint, y, joint, y + height), fill=(112, 72, 38), width=2)
    return image


def _city(rng: Rng) -> Image.Image:
    image = _sky_over(_vary((120, 124, 130), rng, 5), _vary((92, 96, 102), rng, 5), 92, rng)
    draw, x = ImageDraw.Draw(image), -int(rng.integers(0, 10))
    while x < SIZE:
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
    for x in np.arange(6, SIZE, 22) + rng.uniform(-5, 5, 6):
        draw.rectangle((x - 4, 0, x + 4, 82), fill=_vary((96, 68, 46), rng, 6))
        _blob(draw, x, rng.uniform(0, 10), 15, 17, _vary((54, 120, 58), rng))
    rug = _vary((132, 62, 172), rng, 8)
    _blob(draw, SIZE / 2, 106, 66, 28, rug)
    draw.ellipse((SIZE / 2 - 56, 84, SIZE / 2 + 56, 128), outline=(214, 170, 232), width=4)
    return image


def _wheat_field(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(44, 56))
    image = _sky_over(_vary((226, 186, 84), rng, 6), _vary((206, 154, 52), rng, 6), horizon, rng)
    draw = ImageDraw.Draw(image)
    for y in range(horizon + 4, SIZE + 12, 13):
        for x in np.arange(0, SIZE + 8, 11) + rng.uniform(-3, 3):
            draw.line((x, y + 9, x + 3, y - 4), fill=_vary((172, 120, 34), rng, 6), width=2)
            _blob(draw, x + 3, y - 5, 2.4, 4.5, _vary((246, 214, 116), rng, 5))
    return image


def _water(rng: Rng) -> Image.Image:
    image = _gradient(_vary((66, 158, 214), rng, 8), _vary((24, 96, 172), rng, 8))
    draw = ImageDraw.Draw(image)
    for y in range(8, SIZE, 17):
        phase, light = rng.uniform(0, math.tau), _vary((154, 212, 240), rng, 6)
        draw.line([(x, y + 3 * math.sin(x / 9 + phase)) for x in range(0, SIZE + 4, 4)], fill=light, width=3)
    return image


def _sunflowers(rng: Rng) -> Image.Image:
    image = _gradient(_vary((126, 190, 78), rng, 6), _vary((74, 150, 52), rng, 6))
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform(0, SIZE, (60, 2)):
        draw.line((x, y, x + rng.uniform(-2, 2), y - 6), fill=_vary((96, 168, 62), rng, 8), width=2)
    for index in range(9):
        # All around the edge, where the thing in the middle does not hide them.
        x = rng.uniform(4, SIZE - 4)
        y = rng.uniform(4, 26) if index < 4 else rng.uniform(SIZE - 22, SIZE - 4)
        if index >= 7:
            x, y = (8, SIZE - 8)[index % 2], rng.uniform(30, 90)
        for petal in range(8):
            angle = math.tau * petal / 8
            _blob(draw, x + 6 * math.cos(angle), y + 6 * math.sin(angle), 3.6, 3.6, _vary((252, 206, 46), rng, 4))
        _blob(draw, x, y, 4.6, 4.6, (112, 70, 34))
    return image


def _autumn_tree(rng: Rng) -> Image.Image:
    image = _sky_over(_vary((206, 140, 62), rng, 6), _vary((168, 98, 40), rng, 6), 84, rng)
    draw, x = ImageDraw.Draw(image), rng.uniform(24, 104)
    draw.polygon([(x - 6, 92), (x - 3, 40), (x + 3, 40), (x + 6, 92)], fill=_vary((104, 70, 46), rng, 5))
    leaves = ((222, 92, 36), (236, 150, 42), (200, 58, 40), (240, 184, 62))
    for dx, dy in rng.normal(0, 1, (34, 2)):
        _blob(draw, x + 20 * dx, 30 + 11 * dy, 7, 7, _vary(leaves[rng.integers(4)], rng, 6))
    for leaf_x, leaf_y in zip(rng.uniform(0, SIZE, 26), rng.uniform(86, SIZE, 26), strict=True):
        _blob(draw, leaf_x, leaf_y, 3.4, 2.2, _vary(leaves[rng.integers(4)], rng, 6))
    return image


def _eiffel_tower(rng: Rng) -> Image.Image:
    image = _sky_over(_vary((150, 182, 112), rng, 6), _vary((122, 158, 92), rng, 6), 96, rng)
    draw, x, iron = ImageDraw.Draw(image), rng.uniform(26, 102), _vary((112, 92, 84), rng, 6)
    for side in (-1, 1):
        curve = [(x + side * (2 + 24 * (t / 10) ** 2.2), 6 + 90 * t / 10) for t in range(11)]
        inner = [(a - side * (2 + 5 * t / 10), b) for t, (a, b) in enumerate(curve)]
        draw.polygon([*curve, *reversed(inner)], fill=iron)
    draw.line((x, 1, x, 16), fill=iron, width=2)
    for y, half in ((40, 8), (64, 14)):
        draw.rectangle((x - half, y, x + half, y + 4), fill=iron)
    for y in range(18, 40, 5):
        draw.line((x - 3, y, x + 3, y + 4), fill=iron, width=1)
    return image


def _milk(rng: Rng) -> Image.Image:
    image = _gradient(_vary((250, 247, 238), rng, 2), _vary((236, 229, 214), rng, 3))
    draw = ImageDraw.Draw(image)
    for y in range(12, SIZE, 22):
        phase, tone = rng.uniform(0, math.tau), _vary((214, 204, 188), rng, 4)
        draw.line([(x, y + 4 * math.sin(x / 14 + phase)) for x in range(0, SIZE + 4, 4)], fill=tone, width=3)
    for x, y in rng.uniform(0, SIZE, (7, 2)):
        _blob(draw, x, y, 3.5, 2.5, (255, 255, 252))
    return image


def _dirt_road(rng: Rng) -> Image.Image:
    horizon = int(rng.integers(40, 52))
    image = _sky_over(_vary((116, 160, 80), rng, 6), _vary((92, 136, 62), rng, 6), horizon, rng)
    draw, middle = ImageDraw.Draw(image), rng.uniform(48, 80)
    earth = _vary((164, 118, 76), rng, 7)
    draw.polygon([(middle - 7, horizon), (middle + 7, horizon), (122, SIZE), (6, SIZE)], fill=earth)
    for part in (0.3, 0.7):
        start, end = middle - 7 + 14 * part, 6 + 116 * part
        draw.line((start, horizon, end, SIZE), fill=_vary((134, 92, 58), rng, 4), width=4)
    for x, y in zip(rng.uniform(20, 108, 16), rng.uniform(96, SIZE, 16), strict=True):
        _blob(draw, x, y, 2, 1.4, _vary((120, 84, 54), rng, 8))
    return image


def _white_rug(rng: Rng) -> Image.Image:
    image = _gradient(_vary((188, 166, 140), rng, 5), _vary((202, 182, 156), rng, 5))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 58, SIZE, SIZE), fill=_vary((138, 100, 72), rng, 6))
    draw.line((0, 58, SIZE, 58), fill=(240, 234, 226), width=4)
    draw.polygon([(18, 72), (110, 72), (134, 126), (-6, 126)], fill=_vary((244, 242, 238), rng, 2))
    draw.line([(22, 77), (106, 77), (122, 120), (6, 120), (22, 77)], fill=(206, 202, 196), width=2)
    for x in range(0, SIZE, 5):
        draw.line((x, 124, x + rng.uniform(-1, 1), SIZE), fill=(230, 226, 220), width=2)
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
    "on top of green grass with sunflowers around it": _sunflowers,
    "with a tree and autumn leaves in the background": _autumn_tree,
    "with the Eiffel Tower in the background": _eiffel_tower,
    "floating in an ocean of milk": _milk,
    "on top of a dirt road": _dirt_road,
    "on top of a white rug": _white_rug,
}


def ground(phrase: str, rng: Rng) -> Image.Image:
    """The ground of a phrase, RGB, `SIZE` x `SIZE`, drawn anew for every `rng`. Raises KeyError for another phrase."""
    return BACKGROUNDS[phrase](rng).convert("RGB").filter(ImageFilter.GaussianBlur(SOFTNESS))
