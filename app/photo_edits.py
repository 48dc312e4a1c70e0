"""What a person changes on a photo before a training: its square and its caption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.photos import open_photo

STORED_SIZE = 2048  # pixels of the longer side of a stored photo
SMALLEST_CROP = 0.1  # of the shorter side
LONGEST_CAPTION = 1000  # characters


@dataclass(frozen=True)
class PhotoEdit:
    """A photo's own prompt, empty for the training's; and its square, None for the whole photo.

    The square is (left, top, side): left as a part of the width, top of the height, side of the shorter side.
    """

    caption: str = ""
    crop: tuple[float, float, float] | None = None

    def cut(self, image: Image.Image) -> Image.Image:
        """The photo's square, or the whole photo."""
        if self.crop is None:
            return image
        left, top, part = self.crop
        side = max(1, round(part * min(image.size)))
        # Rounding may lead one pixel over the edge.
        x = min(round(left * image.width), image.width - side)
        y = min(round(top * image.height), image.height - side)
        return image.crop((x, y, x + side, y + side))


def edits_of(values: Any, names: Sequence[str]) -> list[PhotoEdit]:
    """The edits of photos from a list of {"caption", "crop"}, one per photo in their order; an empty list for none.

    Raises:
        VectorFitError: it is no such list, or a square leaves its photo; every photo is named.
    """
    if not values:
        return [PhotoEdit()] * len(names)
    if not isinstance(values, list) or len(values) != len(names):
        got = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
        raise VectorFitError(f"edits: got {got}, expected a list with one for each of the {len(names)} photos")
    edits, problems = [], []
    for value, name in zip(values, names, strict=True):
        try:
            edits.append(_edit(value or {}))
        except (AttributeError, TypeError, ValueError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise VectorFitError("\n".join(problems))
    return edits


def _edit(value: dict) -> PhotoEdit:
    caption = " ".join(str(value.get("caption") or "").split())
    if len(caption) > LONGEST_CAPTION:
        raise ValueError(f"its caption has {len(caption)} characters, expected at most {LONGEST_CAPTION}")
    crop = value.get("crop")
    if not crop:
        return PhotoEdit(caption)
    left, top, side = (float(number) for number in crop)
    inside = all(math.isfinite(number) and 0 <= number < 1 for number in (left, top)) and SMALLEST_CROP <= side <= 1
    if not inside:
        raise ValueError(
            f"crop: got {crop}, expected left and top from 0 to 1, the side from {SMALLEST_CROP} to 1, as parts of the "
            "photo's width, height and shorter side"
        )
    return PhotoEdit(caption, (left, top, side))


def store(photos: Sequence[Path], edits: Sequence[PhotoEdit], folder: Path) -> None:
    """Saves photos under names of ours, each with its caption beside it: upright, cut, without a camera's metadata.

    They are no larger than any training needs. One photo at a time is in memory.
    """
    folder.mkdir(parents=True)
    for number, (path, edit) in enumerate(zip(photos, edits, strict=True)):
        image = edit.cut(open_photo(path))
        image.thumbnail((STORED_SIZE, STORED_SIZE), Image.Resampling.LANCZOS)
        image.save(folder / f"{number:02d}.png")
        if edit.caption:
            (folder / f"{number:02d}.txt").write_text(edit.caption + "\n", encoding="utf-8")
