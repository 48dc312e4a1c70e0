"""The subjects to choose from: the run folders of one root, uploaded files, and those that come along.

A subject goes by its name in the list, never by a path: what is not in the list cannot be asked for.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.runs import RunFolder
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.base_models import SD14, BaseModel
from vf_dreambooth.pipeline import base_of, subject_file

UPLOADS, EXAMPLES = "uploads", "examples"
LARGEST = 64 * 2**20  # bytes of an uploaded subject file; Stable Diffusion's take two million


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
                return image.convert("RGB")
        except (binascii.Error, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            return None

    def settings(self) -> dict:
        """The training's settings, as the file keeps them."""
        return dict(json.loads(vf.read_metadata(self.file).get("vectorfit.training", "{}")))


def slug(text: str) -> str:
    """A text as the name of a file: lower case letters, digits and dashes, "subject" where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "subject"


class Library:
    """The subjects under `root`, and those in `shipped`. `bases` are names of base models that files may ask for."""

    def __init__(self, root: Path, shipped: Path | None = None, bases: tuple[str, ...] = ()) -> None:
        self.root, self.shipped = root, shipped
        self.bases = {"starter", SD14, *bases}

    def _places(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of everything that may be a subject; links that lead out of the root are none."""
        for folder in sorted(self.root.glob("*")):
            if RunFolder(folder).vectors.is_file() and self._inside(RunFolder(folder).vectors):
                yield folder.name, folder
        for file in sorted((self.root / UPLOADS).glob("*.safetensors")):
            if self._inside(file):
                yield f"{UPLOADS}/{file.stem}", file
        if self.shipped:
            for file in sorted(self.shipped.glob("*.safetensors")):
                yield f"{EXAMPLES}/{file.stem}", file

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

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
            names = ", ".join(subject.name for subject in self.all()) or "none yet"
            raise VectorFitError(f"no subject is called {name!r}; there are: {names}")
        return _read(name, path)

    def base_of(self, subject: Subject) -> BaseModel:
        """The base a subject was trained on.

        Runs of the root say where theirs lies. A file from elsewhere only names its base, and a name could be any path
        or hub id: it is heeded where it is a name that this app was started with.

        Raises:
            VectorFitError: the base is not one of these, or is not to be found.
        """
        if not subject.path.is_dir() and subject.base not in self.bases:
            raise VectorFitError(
                f"{subject.name} was trained on {subject.base!r}, which this app does not have; start it with "
                "--base_model and that model's folder or hub id"
            )
        return base_of(subject.path)

    def add(self, uploaded: Path) -> Subject:
        """Takes a file into the root's uploads once all of it has been checked.

        Raises:
            VectorFitError: it is no subject file, damaged, too large, or of a base that is not here.
        """
        if uploaded.suffix != ".safetensors":
            raise VectorFitError(f"{uploaded.name}: not a .safetensors file; expected a subject file of VectorFit")
        size = uploaded.stat().st_size
        if size > LARGEST:
            raise VectorFitError(f"{uploaded.name}: {size:,} bytes; expected a subject file of at most {LARGEST:,}")
        try:
            read_vectors(uploaded)
            self.base_of(_read(uploaded.stem, uploaded))
        except VectorFitError as error:  # the path is the server's, and says nothing to who uploads
            raise VectorFitError(str(error).replace(str(uploaded), uploaded.name)) from error
        place, number = self.root / UPLOADS / f"{slug(uploaded.stem)}.safetensors", 1
        while place.exists():
            number += 1
            place = place.with_name(f"{slug(uploaded.stem)}-{number}.safetensors")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, uploaded.read_bytes())
        return self.find(f"{UPLOADS}/{place.stem}")


def _read(name: str, path: Path) -> Subject:
    metadata = vf.read_metadata(subject_file(path))
    training = json.loads(metadata.get("vectorfit.training", "{}"))
    trigger = metadata.get("modelspec.trigger_phrase") or training.get("class_noun") or name
    return Subject(name, path, trigger, metadata["vectorfit.base_model"], training.get("method", "vectorfit"))
