"""Checks uploaded photos before a training: size, problems, and a guess of the class noun."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from vectorfit import VectorFitError
from vf_dreambooth.photos import FORMATS, Photos, open_photo
from vf_dreambooth.prompts import class_noun

MAX_PIXELS, MAX_PIXELS_TOGETHER = 50_000_000, 200_000_000
CHECKED_SIZE = 1536  # pixels: more than any training resolution, so that small photos are still recognised
UNREADABLE = "–"  # shown instead of the pixels
CAMERA_WORDS = {
    "dsc",
    "dscn",
    "dscf",
    "pxl",
    "mvimg",
    "screenshot",
    "whatsapp",
    "signal",
    "p",
    "gopr",
    "copy",
    "photoroom",
}


@dataclass(frozen=True)
class PhotoCheck:
    """A row per photo (name, pixels, note); the readable photos, upright and without copies; the likely noun."""

    rows: list[list[str]]
    images: list[Image.Image]
    noun: str
    shown: list[Image.Image | None]  # per row, None for what cannot be read

    @property
    def unreadable(self) -> int:
        return sum(pixels == UNREADABLE for _, pixels, _ in self.rows)


def check_photos(paths: Sequence[Path], resolution: int) -> PhotoCheck:
    """Checks every photo; `resolution` is the training's, in pixels.

    Raises:
        VectorFitError: together they have more than `MAX_PIXELS_TOGETHER`.
    """
    together = sum(_pixels(path) for path in paths)
    if together > MAX_PIXELS_TOGETHER:
        raise VectorFitError(
            f"the photos have {together / 1e6:.0f} million pixels together, expected at most "
            f"{MAX_PIXELS_TOGETHER / 1e6:.0f}; scale them down"
        )
    shown: list[Image.Image | None] = []
    rows, readable, first_rows = [], [], {}
    for path in paths:
        try:
            image, size = _opened(path)
        except VectorFitError as error:
            shown.append(None)
            rows.append(
                [path.name, UNREADABLE, str(error).replace(str(path), path.name).removeprefix(f"{path.name}: ")]
            )
            continue
        shown.append(image)
        rows.append([path.name, f"{size[0]} x {size[1]}", "turned upright" if _turned(path) else ""])
        first = first_rows.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), rows[-1])
        if first is rows[-1]:  # a copy needs no further notes
            readable.append((image, first))
        else:
            _note(rows[-1], f"the same file as {first[0]}")
    readable_rows = [row for _, row in readable]
    photos = Photos([image for image, _ in readable], [row[0] for row in readable_rows], [])
    for index in photos.small(resolution):
        _note(readable_rows[index], f"smaller than the {resolution} pixels of the training")
    for first, second in photos.alike():
        _note(readable_rows[second], f"nearly the same as {readable_rows[first][0]}")
    for row in rows:
        row[2] = row[2] or "good"
    return PhotoCheck(rows, photos.images, guess_noun([path.stem for path in paths]), shown)


def _note(row: list[str], text: str) -> None:
    row[2] = f"{row[2]}; {text}" if row[2] else text


def _pixels(path: Path) -> int:
    """The pixels that a photo's header promises; 0 if it cannot be read, for which `open_photo` gives the reason."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0


def _opened(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A photo scaled down to `CHECKED_SIZE`, and its original size. Raises VectorFitError if it cannot be used."""
    pixels = _pixels(path)
    if pixels > MAX_PIXELS:
        raise VectorFitError(
            f"{pixels / 1e6:.0f} million pixels, expected at most {MAX_PIXELS / 1e6:.0f}; scale it down"
        )
    image = open_photo(path)
    size = image.size
    image.thumbnail((CHECKED_SIZE, CHECKED_SIZE))
    return image, size


def _turned(path: Path) -> bool:
    with Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def guess_noun(stems: Sequence[str]) -> str:
    """The class noun in most file names: dog for "dog-1" and "dog-2", "" for names that a camera gives."""
    counts: Counter[str] = Counter()
    for stem in stems:
        words = [word for word in re.split(r"[^a-zA-Z]+", stem.lower()) if word and word not in CAMERA_WORDS]
        try:
            counts[class_noun(" ".join(words))] += 1
        except VectorFitError:
            continue
    (noun, count), *_ = counts.most_common(1) or [("", 0)]
    return noun if 2 * count > len(stems) else ""
