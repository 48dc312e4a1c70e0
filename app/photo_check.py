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
UNREADABLE = "–"  # in the place of the pixels
CAMERAS = {"dsc", "dscn", "dscf", "pxl", "mvimg", "screenshot", "whatsapp", "signal", "p", "gopr", "copy", "photoroom"}


@dataclass(frozen=True)
class Checked:
    """What was found: a row per photo (name, pixels, what to know), the readable ones upright, and the likely noun."""

    rows: list[list[str]]
    images: list[Image.Image]
    noun: str

    @property
    def unreadable(self) -> int:
        return len(self.rows) - len(self.images)


def check(paths: Sequence[Path], resolution: int) -> Checked:
    """Looks at every photo; `resolution` is what will be trained on, in pixels."""
    rows, images, names, seen = [], [], [], {}
    for path in paths:
        try:
            image = open_photo(path)
        except VectorFitError as error:
            rows.append(
                [path.name, UNREADABLE, str(error).replace(str(path), path.name).removeprefix(f"{path.name}: ")]
            )
            continue
        notes = ["turned upright"] if _turned(path) else []
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        notes += [f"the same file as {seen[digest]}"] if digest in seen else []
        seen.setdefault(digest, path.name)
        images.append(image)
        names.append(path.name)
        rows.append([path.name, f"{image.width} x {image.height}", "; ".join(notes)])
    for row in rows:
        told = [w for w in Photos(images, names, []).warnings(resolution) if w.startswith(f"{row[0]} ")]
        told = [] if "same file" in row[2] else [warning.removeprefix(f"{row[0]} ") for warning in told]
        row[2] = "; ".join([*filter(None, [row[2]]), *told]) or "good"
    return Checked(rows, images, guess_noun([path.stem for path in paths]))


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
