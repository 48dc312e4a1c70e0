"""The gallery: what each browser drew, kept on disk until it is deleted there.

Every browser has a secret key. Its drawings are in ROOT/.gallery/KEY/ID/, each with its pictures and drawing.json, the
request it came from. IDs sort by time.
"""

import json
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

from .generation import SavedImage

FOLDER, RECORD = ".gallery", "drawing.json"
KEPT = 200  # drawings of one browser; the oldest make room
LARGEST_GALLERIES = 4 * 2**30  # bytes of all browsers together
NAME = re.compile(r"[0-9a-z-]{8,64}")


@dataclass(frozen=True)
class Drawing:
    """A drawing on disk: the settings without a seed, its seeds, and the pictures that are done."""

    id: str
    folder: Path
    parameters: dict
    seeds: list[int]
    compare: bool
    notes: list[str]

    @property
    def images(self) -> dict[int, Path]:
        """The personalised pictures by seed; the base's if no subject was asked for."""
        return self._pictures("picture")

    @property
    def base_images(self) -> dict[int, Path]:
        return self._pictures("base")

    def _pictures(self, kind: str) -> dict[int, Path]:
        paths = {seed: self.folder / f"{kind}-{seed}.png" for seed in self.seeds}
        return {seed: path for seed, path in paths.items() if path.exists()}


class Gallery:
    """The galleries of all browsers under one root. A key that is not of our making finds nothing."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def new_key(self) -> str:
        return secrets.token_hex(16)

    def _folder(self, key: str, drawing: str = "") -> Path:
        if not NAME.fullmatch(key) or not (NAME.fullmatch(drawing) or not drawing):
            raise VectorFitError("this gallery does not exist; reload the page")
        return self.folder / key / drawing

    def new(self, key: str, parameters: dict, seeds: Sequence[int], compare: bool) -> Drawing:
        """A new drawing without pictures."""
        self._make_room(key)
        folder = self._folder(key, f"{time.time_ns() // 10**6:014d}-{secrets.token_hex(3)}")
        folder.mkdir(parents=True)
        drawing = Drawing(folder.name, folder, parameters, list(seeds), compare, [])
        self.note(drawing, [])
        return drawing

    def note(self, drawing: Drawing, notes: Sequence[str]) -> None:
        """Writes the record, with notes for the person."""
        record = {"parameters": drawing.parameters, "seeds": drawing.seeds, "compare": drawing.compare}
        write_atomically(drawing.folder / RECORD, json.dumps(record | {"notes": list(notes)}).encode())

    def keep(self, drawing: Drawing, image: SavedImage, base: bool) -> None:
        """Moves a new picture into its drawing."""
        shutil.move(image.path, drawing.folder / f"{'base' if base else 'picture'}-{image.parameters['seed']}.png")

    def all(self, key: str) -> list[Drawing]:
        """A browser's drawings, the newest first. Those without a picture and damaged records are left out."""
        if not key:
            return []
        found = []
        for file in sorted(self._folder(key).glob(f"*/{RECORD}"), reverse=True):
            try:
                found.append(self._read(file.parent))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return [drawing for drawing in found if drawing.images or drawing.base_images]

    def find(self, key: str, drawing: str) -> Drawing:
        """One drawing. Raises VectorFitError if it is gone."""
        try:
            return self._read(self._folder(key, drawing))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VectorFitError("this drawing is no longer in the gallery") from error

    @staticmethod
    def _read(folder: Path) -> Drawing:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        seeds, notes = [int(seed) for seed in record["seeds"]], [str(note) for note in record["notes"]]
        return Drawing(folder.name, folder, dict(record["parameters"]), seeds, bool(record["compare"]), notes)

    def delete(self, key: str, drawing: str) -> None:
        """Removes a drawing with its pictures."""
        shutil.rmtree(self.find(key, drawing).folder, ignore_errors=True)

    def zipped(self, key: str, folder: Path, drawing: str = "") -> Path:
        """A zip with the pictures of one drawing, or of all."""
        source = self.find(key, drawing).folder if drawing else self._folder(key)
        if not any(source.rglob("*.png")):
            raise VectorFitError("there is no picture in the gallery yet")
        return Path(shutil.make_archive(str(folder / (drawing or "gallery")), "zip", source))

    def remove_empty(self) -> None:
        """Removes the drawings without a picture that a killed server left; none may be in progress."""
        for record in self.folder.glob(f"*/*/{RECORD}"):
            if not any(record.parent.glob("*.png")):
                shutil.rmtree(record.parent, ignore_errors=True)

    def _make_room(self, key: str) -> None:
        own = self.all(key)
        for old in own[KEPT - 1 :]:
            shutil.rmtree(old.folder, ignore_errors=True)
        sizes = {file: file.stat().st_size for file in self.folder.glob("*/*/*.png")}
        if (total := sum(sizes.values())) > LARGEST_GALLERIES:
            for folder in sorted({file.parent for file in sizes}, key=lambda path: path.name):
                total -= sum(size for file, size in sizes.items() if file.parent == folder)
                shutil.rmtree(folder, ignore_errors=True)
                if total <= LARGEST_GALLERIES:
                    return
