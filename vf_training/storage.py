"""Folders on any storage that fsspec knows, and local copies of them for a job.

On this machine's own file system a run is written where it belongs. Elsewhere it is written to a scratch folder, copied
to the storage while the job goes on, and fetched from there when another worker goes on with it.
"""

import copy
import os
import posixpath
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically

from .runs import RunFolder

COPY_EVERY = 30  # seconds between two looks for new files to copy
COMPLETE = ".complete"  # beside a checkpoint's files on a storage: it was copied whole


class Storage:
    """A folder on any storage that fsspec knows, such as `runs`, `s3://bucket/runs`."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self.files, path = url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise VectorFitError(
                f"{url}: cannot be reached ({error}); expected a folder, or a URL of fsspec"
            ) from error
        self.url, self.path = url, str(path)
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of the local file that the storage has

    @property
    def is_local(self) -> bool:
        protocol = self.files.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def at(self, place: str) -> "Storage":
        """What a path relative to this folder means, or a URL."""
        if "://" in place:
            return Storage(place)
        there = copy.copy(self)
        if self.is_local:
            there.path = str((Path(self.path).resolve() / place).resolve())
        else:
            there.path = posixpath.normpath(f"{self.path}/{place}")
        there.url, there._copied = f"{self.url.rstrip('/')}/{place}", {}
        return there

    def seen_from(self, folder: "Storage") -> str:
        """Its path relative to a folder of the same storage, otherwise its URL."""
        if self.files != folder.files:
            return str(self.files.unstrip_protocol(self.path))
        if self.is_local:
            return os.path.relpath(Path(self.path).resolve(), Path(folder.path).resolve())
        return posixpath.relpath(self.path, folder.path)

    def require_writable(self) -> None:
        """Writes a file and removes it. Raises VectorFitError where that fails."""
        probe = f"{self.path}/.writable"
        try:
            self.files.makedirs(self.path, exist_ok=True)
            with self.files.open(probe, "wb") as file:
                file.write(b"\n")
            self.files.rm(probe)
        except Exception as error:  # each storage has errors of its own
            first = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise VectorFitError(
                f"{self.url}: cannot be written ({first[0]}); give a folder with rights to it"
            ) from error

    def folders(self) -> list[str]:
        """The names of the folders in it."""
        try:
            entries = self.files.ls(self.path, detail=True)
        except Exception as error:  # each storage has errors of its own
            raise VectorFitError(f"{self.url}: cannot be read ({error}); expected a folder of subjects") from error
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """A file in it, None where there is none. Raises VectorFitError where it cannot be read."""
        try:
            return bytes(self.files.cat_file(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None
        except Exception as error:  # each storage has errors of its own
            raise VectorFitError(f"{self.url}/{name}: cannot be read ({error})") from error

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in it whole. Raises VectorFitError where that fails."""
        if self.is_local:
            write_atomically(Path(self.path) / name, data)
            return
        try:
            self.files.makedirs(self.path, exist_ok=True)
            self.files.pipe_file(f"{self.path}/{name}", data)
        except Exception as error:  # each storage has errors of its own
            raise VectorFitError(f"{self.url}/{name}: cannot be written ({error})") from error

    def fetch(self, folder: Path, without: Collection[str] = ()) -> None:
        """Copies everything into a local folder, but checkpoints that were not copied here whole.

        `without` names folders and files at its top that are not needed.
        """
        for path in self.files.find(self.path) if self.files.exists(self.path) else []:
            relative = Path(path[len(self.path.rstrip("/")) + 1 :])
            if relative.parts[0] in without:
                continue
            if _is_checkpoint(relative) and not self.files.exists(f"{self.path}/{_checkpoint(relative)}/{COMPLETE}"):
                continue
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(path, str(folder / relative))
            self._copied[relative.as_posix()] = _state(folder / relative)

    def keep(self, folder: Path) -> None:
        """Copies what a run folder has and the storage has not: new files, and those that changed since they were."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder)
            if any(part.startswith(".") for part in relative.parts):
                continue  # unfinished
            target, name, state = f"{self.path}/{relative.as_posix()}", relative.as_posix(), _state(path)
            if self._copied.get(name) == state or (_is_checkpoint(relative) and self.files.exists(target)):
                continue
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(path), target)
            self._copied[name] = state
        for checkpoint in RunFolder(folder).checkpoints().values():
            with self.files.open(f"{self.path}/{checkpoint.relative_to(folder).as_posix()}/{COMPLETE}", "wb") as file:
                file.write(b"\n")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_checkpoint(relative: Path) -> bool:
    return len(relative.parts) > 2 and relative.parts[0] == "checkpoints"


def _checkpoint(relative: Path) -> str:
    return "/".join(relative.parts[:2])


@contextmanager
def at_hand(url: str, scratch: Path, *, kept: bool, without: Collection[str] = ()) -> Iterator[Path]:
    """A local folder with what the URL has: the folder itself where it is local, otherwise a copy in `scratch`.

    With `kept`, what is written there is copied back, every half minute and at the end. A copy leaves out what
    `without` names.
    """
    storage = Storage(url)
    if storage.is_local:
        yield Path(storage.path)
        return
    folder, done = scratch / url.rstrip("/").rpartition("/")[2], threading.Event()
    try:
        storage.fetch(folder, without)
        if not kept:
            yield folder
            return
        copying = threading.Thread(target=_copy_until, args=(storage, folder, done), daemon=True)
        copying.start()
        try:
            yield folder
        finally:
            done.set()
            copying.join()
            storage.keep(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_until(storage: Storage, folder: Path, done: threading.Event) -> None:
    while not done.wait(COPY_EVERY):
        try:
            storage.keep(folder)
        except Exception as error:  # a storage out of reach for a while: the end of the run tries again, and fails
            print(f"{storage.url}: not copied now ({error})", flush=True)
