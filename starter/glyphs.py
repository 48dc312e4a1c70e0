"""The things of the world: which glyph shows which class, and the sheet of pictures they are cut from.

The pictures come from the Noto Color Emoji font (SIL Open Font License 1.1). The sheet `glyphs.png` is kept in the
repository so that rendering needs no font; `python -m starter.glyphs FONT.ttf` draws it again.
"""

import sys
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 136  # pixels; the font's only bitmap size, 109 points, draws glyphs 136 x 128
COLUMNS = 12
SHEET = Path(__file__).with_name("glyphs.png")

# class -> glyphs that training renders
TRAINING = {
    "dog": "🐕 🐶 🦮",
    "cat": "🐈 🐱",
    "bear": "🐻 🐻‍❄️",
    "rabbit": "🐇",
    "horse": "🐎 🐴",
    "owl": "🦉",
    "bird": "🐦 🐤 🕊",
    "fish": "🐟 🐡",
    "monkey": "🐒 🐵",
    "elephant": "🐘",
    "turtle": "🐢",
    "car": "🚗 🚕 🚓",
    "bicycle": "🚲",
    "boat": "⛵ 🚤",
    "backpack": "🎒",
    "sneaker": "👟",
    "boot": "🥾",
    "hat": "🎩 🧢",
    "glasses": "🕶 👓",
    "clock": "⏰ 🕒",
    "vase": "🏺",
    "teapot": "🫖",
    "bowl": "🥣 🍚",
    "can": "🥫",
    "candle": "🕯",
    "robot": "🤖",
    "flower": "🌸 🌼 🌷",
    "guitar": "🎸",
    "ball": "⚽ 🏀",
    "umbrella": "☂",
}

# Glyphs that training never renders: the subjects of `examples/` and the two that settings are tuned on.
HELD_OUT = {
    "poodle": "🐩",
    "black_cat": "🐈‍⬛",
    "panda": "🐼",
    "parrot": "🦜",
    "angelfish": "🐠",
    "jeep": "🚙",
    "tall_boot": "👢",
    "mantel_clock": "🕰",
    "unicorn": "🦄",
    "sun_hat": "👒",
}


def names() -> list[str]:
    """Every glyph on the sheet, in the sheet's order: `dog/0`, `dog/1`, ... then the held-out ones by name."""
    training = [f"{cls}/{i}" for cls, glyphs in TRAINING.items() for i in range(len(glyphs.split()))]
    return training + list(HELD_OUT)


@cache
def _sheet() -> Image.Image:
    return Image.open(SHEET).convert("RGBA")


@cache
def glyph(name: str) -> Image.Image:
    """One glyph as a tightly cropped RGBA picture. Raises ValueError for a name not in `names()`."""
    index = names().index(name)
    left, top = index % COLUMNS * CELL, index // COLUMNS * CELL
    cell = _sheet().crop((left, top, left + CELL, top + CELL))
    return cell.crop(cell.getchannel("A").getbbox())


def draw_sheet(font_path: str) -> Image.Image:
    """Draws all glyphs from the colour font at `font_path` (Debian: package fonts-noto-color-emoji)."""
    font = ImageFont.truetype(font_path, 109)
    characters = [g for glyphs in TRAINING.values() for g in glyphs.split()] + list(HELD_OUT.values())
    rows = -(-len(characters) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    draw = ImageDraw.Draw(sheet)
    for index, character in enumerate(characters):
        draw.text((index % COLUMNS * CELL, index // COLUMNS * CELL), character, font=font, embedded_color=True)
    return sheet


if __name__ == "__main__":
    draw_sheet(sys.argv[1]).save(SHEET, optimize=True)
