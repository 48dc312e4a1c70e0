"""Files that are written completely or not at all."""

import contextlib
import os
from pathlib import Path

from .errors import VectorFitError

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, data: bytes) -> None:
    """Writes a file completely or not at all: under another name, synced, then renamed.

    Raises:
        VectorFitError: it cannot be written; a file that was there before is untouched.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        # A full or vanished disk may refuse this too, which would hide the reason above.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
