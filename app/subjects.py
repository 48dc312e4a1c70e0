"""The library of subjects: the run folders of one root, uploaded files, and the shipped examples.

A request names a subject, never a path. A name that is not in the list is refused.
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
from vf_dreambooth.photos import SUFFIXES
from vf_dreambooth.pipeline import base_of, subject_file
from vf_training import methods
from vf_training.runs import RunFolder

UPLOADS, EXAMPLES, PHOTOS, CLASS_IMAGES = "uploads", "examples", "photos", "class_images"
RESERVED_FOLDERS = {UPLOADS, PHOTOS, CLASS_IMAGES}  # folders of the root that are not run folders
MAX_UPLOADS = 200
MAX_THUMBNAIL = 1024  # pixels per side


@dataclass(frozen=True)
class Subject:
    """A subject: its name in the list, its run folder or file, and the trigger, base and method from its file."""

    name: str
    path: Path
    trigger: str
    base: str
    method: str

    @property
    def label(self) -> str:
        """The name as a person reads it; where it came from is said only of what they did not train here."""
        origin, _, name = self.name.rpartition("/")
        return f"{name} (added)" if origin == UPLOADS else name

    @property
    def file(self) -> Path:
        return subject_file(self.path)

    def thumbnail(self) -> Image.Image | None:
        """The thumbnail in the file; None if there is none, or if it is no valid JPEG."""
        url = vf.read_metadata(self.file).get("modelspec.thumbnail", "")
        try:
            data = base64.b64decode(url.partition("base64,")[2], validate=True)
            with Image.open(BytesIO(data), formats=["JPEG"]) as image:
                return image.convert("RGB") if max(image.size) <= MAX_THUMBNAIL else None
        except (binascii.Error, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            return None

    def settings(self) -> dict:
        """The training's settings, as recorded in the file."""
        return _training(self.file, vf.read_metadata(self.file))


def slug(text: str) -> str:
    """A text as a file name: lower case letters, digits and dashes; "subject" if nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "subject"


class Library:
    """The subjects under `root` and in `shipped`. `bases` are the base models that the app was started with."""

    def __init__(self, root: Path, shipped: Path | None = None, bases: Sequence[BaseModel] = ()) -> None:
        self.root, self.shipped = root, shipped
        self.bases = {base.name: base for base in bases}

    def _paths(self) -> Iterator[tuple[str, Path]]:
        """(name, path) of every possible subject. Links that lead out of the root are skipped."""
        for folder in sorted(self.root.glob("[!.]*")):
            file = RunFolder(folder).vectors
            if folder.name not in RESERVED_FOLDERS and file.is_file() and self._inside(file):
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
        """The names of all possible subjects, without opening a file."""
        return [name for name, _ in self._paths()]

    def all(self) -> list[Subject]:
        """Every subject that can be read, in the order of their names. Damaged files are left out."""
        subjects = []
        for name, path in self._paths():
            try:
                subjects.append(_read(name, path))
            except VectorFitError:
                continue
        return subjects

    def find(self, name: str) -> Subject:
        """The subject of a name. Raises VectorFitError if the list has none."""
        path = dict(self._paths()).get(name)
        if path is None:
            raise VectorFitError(f"no subject is called {name!r}; there are: {', '.join(self.names()) or 'none yet'}")
        return _read(name, path)

    def photos(self, subject: Subject) -> list[Path]:
        """The photos that a subject was trained on, if they are still here."""
        origin, _, name = subject.name.rpartition("/")
        shipped = self.shipped.parent if self.shipped and origin == EXAMPLES else None
        folder = (shipped or self.root / PHOTOS) / name
        paths = sorted(folder.glob("*")) if origin != UPLOADS else []
        return [path for path in paths if path.suffix.lower() in SUFFIXES and ".mask." not in path.name]

    def base_of(self, subject: Subject) -> BaseModel:
        """The base model that a subject was trained on.

        A run folder records where its base is. An uploaded file only names its base, and that name could be any path,
        hub id or revision. So it must match a base that the app was started with.

        Raises:
            VectorFitError: the base does not match, or cannot be found.
        """
        if subject.path.is_dir():
            return base_of(subject.path)
        metadata, base = vf.read_metadata(subject.file), self.bases.get(subject.base)
        version = [metadata.get(f"vectorfit.base_{part}") or None for part in ("revision", "variant")]
        if base is None or version != [base.revision, base.variant]:
            required = " ".join([repr(subject.base), *(repr(part) for part in version if part)])
            raise VectorFitError(
                f"{subject.name} was trained on {required}, which this app does not have; start it with --base_model "
                f"and that model. It has {' and '.join(sorted(self.bases)) or 'none'}"
            )
        return base

    def add(self, uploaded: Path) -> Subject:
        """Checks an uploaded file and copies it into the root's uploads. An identical file is kept only once.

        Raises:
            VectorFitError: it is no subject file, it is damaged, its base is missing, or there are too many uploads.
        """
        if uploaded.suffix != ".safetensors":
            raise VectorFitError(f"{uploaded.name}: not a .safetensors file; expected a subject file of VectorFit")
        try:
            read_vectors(uploaded)
            subject = _read(uploaded.stem, uploaded)
            self.base_of(subject)
        except VectorFitError as error:  # hide the server's path
            raise VectorFitError(str(error).replace(str(uploaded), uploaded.name)) from error
        content, folder = uploaded.read_bytes(), self.root / UPLOADS
        count = len(list(folder.glob("*.safetensors")))
        if count >= MAX_UPLOADS:
            raise VectorFitError(f"{count} files were uploaded, which is the limit; delete some in {UPLOADS}/")
        name, number = slug(subject.trigger if uploaded.stem == RunFolder("").vectors.stem else uploaded.stem), 1
        path = folder / f"{name}.safetensors"
        while path.exists() and path.read_bytes() != content:
            number += 1
            path = folder / f"{name}-{number}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        return self.find(f"{UPLOADS}/{path.stem}")


def _training(path: Path, metadata: dict[str, str]) -> dict:
    try:
        settings = json.loads(metadata.get("vectorfit.training", "{}"))
    except ValueError as error:
        raise VectorFitError(f"{path}: its settings are damaged ({error}); train it again") from error
    if not isinstance(settings, dict):
        raise VectorFitError(f"{path}: its settings are not a JSON object; train it again")
    return settings


def _read(name: str, path: Path) -> Subject:
    metadata = vf.read_metadata(subject_file(path))
    training = _training(path, metadata)
    trigger = metadata.get("modelspec.trigger_phrase") or training.get("class_noun") or name
    method, base = methods.find(methods.name_of_method(metadata)).name, metadata.get("vectorfit.base_model")
    if not all(isinstance(text, str) and text.isprintable() and len(text) <= 200 for text in (trigger, base)):
        raise VectorFitError(f"{path}: its trigger phrase or base is not a line of text; train it again")
    return Subject(name, path, trigger, str(base), method)
