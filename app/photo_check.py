"""Uploaded photos looked at before a training: what each is, what is wrong, and what its subject may be."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.photos import FORMATS, Photos, open_photo
from vf_dreambooth.prompts import class_noun

EXIF_ORIENTATION = 0x0112
MOST_PIXELS = 50_000_000
LOOKED_AT = 1536  # pixels: more than is trained on, so that a photo too small is still told
UNREADABLE = "–"  # in the place of the pixels
CAMERAS = {"dsc", "dscn", "dscf", "pxl", "mvimg", "screenshot", "whatsapp", "signal", "p", "gopr", "copy", "photoroom"}


@dataclass(frozen=True)
class Checked:
    """A row per photo (name, pixels, what to know), the readable ones once each and upright, and the likely noun."""

    rows: list[list[str]]
    images: list[Image.Image]
    noun: str

    @property
    def unreadable(self) -> int:
        return sum(pixels == UNREADABLE for _, pixels, _ in self.rows)


def check(paths: Sequence[Path], resolution: int) -> Checked:
    """Looks at every photo; `resolution` is what will be trained on, in pixels."""
    rows, read, seen = [], [], {}
    for path in paths:
        try:
            image, size = _opened(path)
        except VectorFitError as error:
            rows.append(
                [path.name, UNREADABLE, str(error).replace(str(path), path.name).removeprefix(f"{path.name}: ")]
            )
            continue
        rows.append([path.name, f"{size[0]} x {size[1]}", "turned upright" if _turned(path) else ""])
        first = seen.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), rows[-1])
        if first is rows[-1]:  # what is said of a file need not be said of its copies
            read.append((image, first))
        else:
            _note(rows[-1], f"the same file as {first[0]}")
    photos, told = Photos([image for image, _ in read], [row[0] for _, row in read], []), [row for _, row in read]
    for index in photos.small(resolution):
        _note(told[index], f"smaller than the {resolution} pixels trained on")
    for first, second in photos.alike():
        _note(told[second], f"nearly the same as {told[first][0]}")
    for row in rows:
        row[2] = row[2] or "good"
    return Checked(rows, photos.images, guess_noun([path.stem for path in paths]))


def _note(row: list[str], text: str) -> None:
    row[2] = f"{row[2]}; {text}" if row[2] else text


def _opened(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A photo made small enough to be looked at, and its own size. Raises VectorFitError when it cannot be used."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pixels = 0  # said better below
    if pixels > MOST_PIXELS:
        raise VectorFitError(
            f"{pixels / 1e6:.0f} million pixels, expected at most {MOST_PIXELS / 1e6:.0f}; scale it down"
        )
    image = open_photo(path)
    size = image.size
    image.thumbnail((LOOKED_AT, LOOKED_AT))
    return image, size


def _turned(path: Path) -> bool:
    with Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(EXIF_ORIENTATION, 1) != 1


def guess_noun(stems: Sequence[str]) -> str:
    """The class noun that most of the names say: "dog-1", "dog-2" say dog; names that cameras give say nothing."""
    found: Counter[str] = Counter()
    for stem in stems:
        words = [word for word in re.split(r"[^a-zA-Z]+", stem.lower()) if word and word not in CAMERAS]
        try:
            found[class_noun(" ".join(words))] += 1
        except VectorFitError:
            continue
    (noun, count), *_ = found.most_common(1) or [("", 0)]
    return noun if 2 * count > len(stems) else ""
