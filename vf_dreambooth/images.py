"""Turns images into tensors, and lays them out side by side."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

PARAMETERS = "parameters"  # the PNG text chunk for the settings of an image; other tools use the same name
CROPS = 8  # random squares of a photo; each is encoded once, so their number is bounded


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre of a picture, scaled so that its short side fills `size` pixels."""
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def views(
    image: Image.Image,
    size: tuple[int, int],
    *,
    center_crop: bool,
    random_flip: bool,
    generator: torch.Generator,
    centering: tuple[float, float] = (0.5, 0.5),
) -> list[Image.Image]:
    """The cuts of a photo to train on: its centre, or `CROPS` random ones, and with `random_flip` their mirrors.

    `size` is width and height. `centering` says where the centre is, as `ImageOps.fit` takes it.
    """
    cuts = [ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=centering)]
    if not center_crop:
        centres = torch.rand((CROPS, 2), generator=generator).tolist()
        cuts = [ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=c) for c in centres]
    return cuts + [ImageOps.mirror(picture) for picture in cuts] if random_flip else cuts


def to_tensor(image: Image.Image) -> Tensor:
    """Pixels [3, h, w] in -1..1, as the VAE expects them."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 127.5 - 1


def write_png(path: Path, image: Image.Image, parameters: Mapping[str, object] | None = None) -> None:
    """Saves a picture atomically, with its settings if they are given.

    Raises:
        VectorFitError: it cannot be written.
    """
    data, text = BytesIO(), PngInfo()
    if parameters is not None:
        text.add_itxt(PARAMETERS, json.dumps(parameters, ensure_ascii=False))
    image.save(data, format="PNG", pnginfo=text)
    write_atomically(path, data.getvalue())


def read_parameters(path: Path) -> dict[str, Any]:
    """The settings that `write_png` saved with a picture. Raises VectorFitError for a file without settings."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            parameters = json.loads(image.info[PARAMETERS])  # type: ignore[attr-defined]
    except (OSError, KeyError, ValueError, SyntaxError) as error:
        raise VectorFitError(f"{path.name}: holds no settings; expected a PNG that was generated here") from error
    if not isinstance(parameters, dict):
        raise VectorFitError(f"{path.name}: its settings are damaged; expected a PNG that was generated here")
    return parameters


def grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    cell: int = 128,
) -> Image.Image:
    """Pictures in rows on white, each `cell` pixels square; titles stand above their row, and above all columns."""
    gap, font = max(4, cell // 32), ImageFont.load_default(max(11, cell // 9))
    line = int(font.size * 1.8)
    band, head = (line if row_titles else gap), (line if column_titles else 0)
    width = max(len(row) for row in rows) * (cell + gap) + gap
    sheet = Image.new("RGB", (width, head + len(rows) * (cell + band) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(column_titles):
        left = gap + column * (cell + gap)
        draw.text((left, line * 0.2), _fitting(title, font, cell), fill="black", font=font)
    for index, row in enumerate(rows):
        top = head + index * (cell + band)
        if index < len(row_titles):
            draw.text((gap, top + band * 0.2), row_titles[index], fill="black", font=font)
        for column, image in enumerate(row):
            sheet.paste(square(image, cell), (gap + column * (cell + gap), top + band))
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, shortened at its end to fit into `width` pixels."""
    if font.getlength(text) <= width:
        return text
    return next((f"{text[:n]}…" for n in range(len(text), 0, -1) if font.getlength(f"{text[:n]}…") <= width), "…")


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
