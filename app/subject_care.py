"""What a person does to a subject here: rename, delete, take notes. Shipped subjects stay as they are."""

import shutil
from pathlib import Path

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

from .jobs import Jobs
from .subjects import EXAMPLES, UPLOADS, Library, slug

NOTES = ".notes"
LONGEST_NOTE = 4000  # characters


def _notes(library: Library, name: str) -> Path:
    return library.root / NOTES / f"{name.replace('/', '--')}.txt"


def note_of(library: Library, name: str) -> str:
    """The notes on a subject; empty if there are none."""
    try:
        return _notes(library, library.find(name).name).read_text(encoding="utf-8")
    except OSError:
        return ""


def write_note(library: Library, name: str, text: str) -> None:
    """Keeps notes on a subject. Raises VectorFitError if they are too long."""
    if len(text) > LONGEST_NOTE:
        raise VectorFitError(f"notes: {len(text)} characters, expected at most {LONGEST_NOTE}")
    file = _notes(library, library.find(name).name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text.encode())


def _own(library: Library, name: str) -> tuple[str, str]:
    """Origin and name of a subject that may be changed. Raises VectorFitError for a shipped one."""
    origin, _, own = library.find(name).name.rpartition("/")
    if origin == EXAMPLES:
        raise VectorFitError(f"{own} came with VectorFit and stays as it is; train or add a subject of your own")
    return origin, own


def rename(library: Library, jobs: Jobs, name: str, wanted: str) -> str:
    """Gives a subject another name, and returns it as the list has it.

    Raises:
        VectorFitError: the name is empty or taken, or the subject came with VectorFit or is being trained.
    """
    origin, own = _own(library, name)
    if not (wanted or "").strip():
        raise VectorFitError("new name: empty, expected some letters")
    new = slug(wanted)
    if origin == UPLOADS:
        target = library.root / UPLOADS / f"{new}.safetensors"
        if target.exists():
            raise VectorFitError(f"{new} exists already; choose another name")
        (library.root / UPLOADS / f"{own}.safetensors").rename(target)
    else:
        jobs.rename(own, new)
    renamed = f"{origin}/{new}" if origin else new
    if _notes(library, name).exists():
        _notes(library, name).rename(_notes(library, renamed))
    return renamed


def delete(library: Library, jobs: Jobs, name: str) -> None:
    """Removes a subject with its training and photos.

    Raises:
        VectorFitError: it came with VectorFit, or is being trained.
    """
    origin, own = _own(library, name)
    if origin == UPLOADS:
        (library.root / UPLOADS / f"{own}.safetensors").unlink()
    elif any(job.name == own for job in jobs.all()):
        jobs.remove(own)
    else:
        shutil.rmtree(library.root / own)
    _notes(library, name).unlink(missing_ok=True)
