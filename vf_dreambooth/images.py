"""Reading a subject's photos, and laying pictures out side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from vectorfit import VectorFitError

# Pillow chooses its decoder by content; only these may run (a PSD or EPS named .png must not).
FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Photos:
    """A folder's photos in name order, upright and RGB, and the names of what was passed over."""

    images: list[Image.Image]
    names: list[str]
    ignored: list[str]


def open_photo(path: Path) -> Image.Image:
    """One photo, RGB: turned upright by its EXIF tag, transparency laid over white.

    Raises:
        VectorFitError: it is not a readable JPEG, PNG or WebP.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            upright.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        reason = "not a JPEG, PNG or WebP" if isinstance(error, UnidentifiedImageError) else str(error)
        raise VectorFitError(f"{path}: cannot be read as an image ({reason}); repair or remove it") from error
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")


def read_folder(folder: Path) -> Photos:
    """All photos of a folder; sub-folders, hidden files and files of other kinds are passed over.

    Raises:
        VectorFitError: the folder is missing or has no photo, or photos cannot be read (all are named).
    """
    if not folder.is_dir():
        raise VectorFitError(f"{folder}: no such folder; expected a folder with three to ten photos of one subject")
    entries = sorted(folder.iterdir())
    paths = [p for p in entries if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    ignored = [p.name for p in entries if p not in paths]
    if not paths:
        found = f"found only {', '.join(ignored[:3])}" if ignored else "it is empty"
        raise VectorFitError(f"{folder}: no photos, {found}; expected JPEG, PNG or WebP files of one subject")
    images, problems = [], []
    for path in paths:
        try:
            images.append(open_photo(path))
        except VectorFitError as error:
            problems.append(str(error))
    if problems:
        raise VectorFitError("\n".join(problems))
    return Photos(images, [p.name for p in paths], ignored)


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre of a picture, scaled so that its short side fills `size` pixels."""
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """Pixels [3, h, w] in -1..1, as the VAE expects them."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 127.5 - 1


def grid(rows: Sequence[Sequence[Image.Image]], *, row_titles: Sequence[str] = (), cell: int = 128) -> Image.Image:
    """Pictures in rows on white, each `cell` pixels square, with a line of text above each row that has a title."""
    gap, font = max(4, cell // 32), ImageFont.load_default(max(11, cell // 9))
    band = int(font.size * 1.8) if row_titles else gap
    width = max(len(row) for row in rows) * (cell + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (cell + band) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = index * (cell + band)
        if index < len(row_titles):
            draw.text((gap, top + band * 0.2), row_titles[index], fill="black", font=font)
        for column, image in enumerate(row):
            sheet.paste(square(image, cell), (gap + column * (cell + gap), top + band))
    return sheet


def comparison(
    references: Sequence[Image.Image],
    columns: dict[str, Sequence[Sequence[Image.Image]]],
    prompts: Sequence[str],
    cell: int = 128,
) -> Image.Image:
    """One picture: the reference photos at the left, then one group of columns per title, a row per prompt."""
    gap, font = 6, ImageFont.load_default(14)
    per_group = max(len(row) for rows in columns.values() for row in rows)
    left = cell + 6 * gap
    group = per_group * (cell + gap) + 5 * gap
    row_height, head = cell + 30, 30
    height = head + max(len(prompts) * row_height, len(references) * (cell + gap) + 20) + gap
    sheet = Image.new("RGB", (gap + left + len(columns) * group, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, gap), "references", fill="black", font=font)
    for index, image in enumerate(references):
        sheet.paste(square(image, cell), (gap, head + 20 + index * (cell + gap)))
    for number, (title, rows) in enumerate(columns.items()):
        x = gap + left + number * group
        draw.text((x, gap), title, fill="black", font=font)
        for index, row in enumerate(rows):
            top = head + index * row_height
            if number == 0:
                draw.text((x, top), f"“{prompts[index]}”", fill=(90, 90, 90), font=font)
            for column, image in enumerate(row):
                sheet.paste(square(image, cell), (x + column * (cell + gap), top + 20))
    return sheet
