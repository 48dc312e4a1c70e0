"""The subjects to choose from: the run folders of one root, uploaded files, and those that come along.

A subject goes by its name in the list, never by a path: what is not in the list cannot be asked for.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.base_models import BaseModel
from vf_dreambooth.pipeline import base_of, subject_file
from vf_training.methods import name_of_method
from vf_training.runs import RunFolder

UPLOADS, EXAMPLES, PHOTOS, CLASS_IMAGES = "uploads", "examples", "photos", "class_images"
NO_RUNS = {UPLOADS, PHOTOS, CLASS_IMAGES}  # folders of the root that are no run folders
MOST_UPLOADS = 200
THUMBNAIL = 1024  # pixels a side that a thumbnail may have


@dataclass(frozen=True)
class Subject:
    """A subject: its name in the list, its run folder or file, and what the file tells of itself."""

    name: str
    path: Path
    trigger: str
    base: str
    method: str

    @property
    def file(self) -> Path:
        return subject_file(self.path)

    def thumbnail(self) -> Image.Image | None:
        """The picture that the file carries; None where it has none, or something else in its place."""
        url = vf.read_metadata(self.file).get("modelspec.thumbnail", "")
        try:
            data = base64.b64decode(url.partition("base64,")[2], validate=True)
            with Image.open(BytesIO(data), formats=["JPEG"]) as image:
                return image.convert("RGB") if max(image.size) <= THUMBNAIL else None
        except (binascii.Error, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            return None

    def settings(self) -> dict:
        """The training's settings, as the file keeps them."""
        return _training(self.file, vf.read_metadata(self.file))


def slug(text: str) -> str:
    """A text as the name of a file: lower case letters, digits and dashes, "subject" where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "subject"


class Library:
    """The subjects under `root`, and those in `shipped`. `bases` are those that the app was started with."""

    def __init__(self, root: Path, shipped: Path | None = None, bases: Sequence[BaseModel] = ()) -> None:
        self.root, self.shipped = root, shipped
        self.bases = {base.name: base for base in bases}

    def _places(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of everything that may be a subject; links that lead out of the root are none."""
        for folder in sorted(self.root.glob("[!.]*")):
            file = RunFolder(folder).vectors
            if folder.name not in NO_RUNS and file.is_file() and self._inside(file):
                yield folder.name, folder
        for file in sorted((self.root / UPLOADS).glob("*.safetensors")):
            if self._inside(file):
                yield f"{UPLOADS}/{file.stem}", file
        if self.shipped:
            for file in sorted(self.shipped.glob("*.safetensors")):
                yield f"{EXAMPLES}/{file.stem}", file

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def names(self) -> list[str]:
        """The names of everything that may be a subject; no file is opened for it."""
        return [name for name, _ in self._places()]

    def all(self) -> list[Subject]:
        """Every subject that can be read, in the order of their names; damaged files are left out."""
        found = []
        for name, path in self._places():
            try:
                found.append(_read(name, path))
            except VectorFitError:
                continue
        return found

    def find(self, name: str) -> Subject:
        """The subject of a name. Raises VectorFitError when the list has none."""
        path = dict(self._places()).get(name)
        if path is None:
            raise VectorFitError(f"no subject is called {name!r}; there are: {', '.join(self.names()) or 'none yet'}")
        return _read(name, path)

    def base_of(self, subject: Subject) -> BaseModel:
        """The base a subject was trained on.

        Runs of the root say where theirs lies. A file from elsewhere only names its base, and a name could be any path,
        hub id or revision: it is heeded where it is that of a base that the app was started with.

        Raises:
            VectorFitError: the base is not one of these, or is not to be found.
        """
        if subject.path.is_dir():
            return base_of(subject.path)
        metadata, base = vf.read_metadata(subject.file), self.bases.get(subject.base)
        asked = [metadata.get(f"vectorfit.base_{part}") or None for part in ("revision", "variant")]
        if base is None or asked != [base.revision, base.variant]:
            of = " ".join([repr(subject.base), *(repr(part) for part in asked if part)])
            raise VectorFitError(
                f"{subject.name} was trained on {of}, which this app does not have; start it with --base_model and "
                f"that model, now it has {' and '.join(sorted(self.bases)) or 'none'}"
            )
        return base

    def add(self, uploaded: Path) -> Subject:
        """Takes a file into the root's uploads once all of it has been checked; one that is there already is found.

        Raises:
            VectorFitError: it is no subject file, damaged, of a base that is not here, or one too many.
        """
        if uploaded.suffix != ".safetensors":
            raise VectorFitError(f"{uploaded.name}: not a .safetensors file; expected a subject file of VectorFit")
        try:
            read_vectors(uploaded)
            read = _read(uploaded.stem, uploaded)
            self.base_of(read)
        except VectorFitError as error:  # the path is the server's, and says nothing to who uploads
            raise VectorFitError(str(error).replace(str(uploaded), uploaded.name)) from error
        content, folder = uploaded.read_bytes(), self.root / UPLOADS
        there = sorted(folder.glob("*.safetensors"))
        if len(there) >= MOST_UPLOADS:
            raise VectorFitError(f"{len(there)} files were uploaded, no more fit; delete some in {UPLOADS}/")
        name, number = slug(read.trigger if uploaded.stem == RunFolder("").vectors.stem else uploaded.stem), 1
        place = folder / f"{name}.safetensors"
        while place.exists() and place.read_bytes() != content:
            number += 1
            place = folder / f"{name}-{number}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content)
        return self.find(f"{UPLOADS}/{place.stem}")


def _training(path: Path, metadata: dict[str, str]) -> dict:
    try:
        told = json.loads(metadata.get("vectorfit.training", "{}"))
    except ValueError as error:
        raise VectorFitError(f"{path}: its settings are damaged ({error}); train it again") from error
    if not isinstance(told, dict):
        raise VectorFitError(f"{path}: its settings are no table; train it again")
    return told


def _read(name: str, path: Path) -> Subject:
    metadata = vf.read_metadata(subject_file(path))
    training = _training(path, metadata)
    trigger = metadata.get("modelspec.trigger_phrase") or training.get("class_noun") or name
    method, base = name_of_method(metadata), metadata.get("vectorfit.base_model")
    if not all(isinstance(text, str) and text.isprintable() and len(text) <= 200 for text in (trigger, method, base)):
        raise VectorFitError(f"{path}: its trigger phrase, method or base is no text; train it again")
    return Subject(name, path, trigger, str(base), method)
