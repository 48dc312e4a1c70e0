"""One worker of a fleet: it loads the base once, and trains one subject after the other.

Photos and runs may be on any storage that fsspec knows. On this machine's own file system a run is written where it
belongs; elsewhere it is written to a scratch folder, copied to the storage with every checkpoint, and fetched from
there when another worker goes on with it.
"""

import copy
import importlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_training.runs import RunFolder

from .cli import PROG

COPY_EVERY = 30  # seconds between two looks for new checkpoints to copy
COMPLETE = ".complete"  # beside a checkpoint's files on a storage: it was copied whole


@dataclass(frozen=True)
class Subject:
    """A subject to train: its name, its photos, and where its run belongs."""

    name: str
    photos: str
    run: str


@dataclass(frozen=True)
class Outcome:
    """How a subject ended: "trained", "found finished" or "failed", and why or with which loss."""

    name: str
    state: str
    about: str
    worker: int = 0


class Storage:
    """A folder on any storage that fsspec knows, such as `runs`, `s3://bucket/runs`."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self.files, self.path = url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise VectorFitError(
                f"{url}: cannot be reached ({error}); expected a folder, or a URL of fsspec"
            ) from error
        self.url = url

    @property
    def is_local(self) -> bool:
        protocol = self.files.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

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

    def fetch(self, folder: Path) -> None:
        """Copies everything into a local folder, but checkpoints that were not copied here whole."""
        for path in self.files.find(self.path) if self.files.exists(self.path) else []:
            relative = Path(path[len(self.path.rstrip("/")) + 1 :])
            if _is_checkpoint(relative) and not self.files.exists(f"{self.path}/{_checkpoint(relative)}/{COMPLETE}"):
                continue
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(path, str(folder / relative))

    def keep(self, folder: Path) -> None:
        """Copies what a run folder has and the storage has not; files of the run itself are copied anew."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder)
            if any(part.startswith(".") for part in relative.parts):
                continue  # unfinished
            target = f"{self.path}/{relative.as_posix()}"
            if _is_checkpoint(relative) and self.files.exists(target):
                continue
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(path), target)
        for checkpoint in RunFolder(folder).checkpoints().values():
            with self.files.open(f"{self.path}/{checkpoint.relative_to(folder).as_posix()}/{COMPLETE}", "wb") as file:
                file.write(b"\n")


def _is_checkpoint(relative: Path) -> bool:
    return len(relative.parts) > 2 and relative.parts[0] == "checkpoints"


def _checkpoint(relative: Path) -> str:
    return "/".join(relative.parts[:2])


@contextmanager
def at_hand(url: str, scratch: Path, *, kept: bool) -> Iterator[Path]:
    """A local folder with what the URL has: the folder itself where it is local, otherwise a copy in `scratch`.

    With `kept`, what is written there is copied back, every half minute and at the end.
    """
    storage = Storage(url)
    if storage.is_local:
        yield Path(storage.path)
        return
    folder, done = scratch / url.rstrip("/").rpartition("/")[2], threading.Event()
    try:
        storage.fetch(folder)
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


class Worker:
    """Trains subjects, one at a time, with the flags of `train_dreambooth_vectorfit.py`."""

    def __init__(self, flags: Sequence[str], threads: int = 0) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.flags = list(flags)
        self.script: Any = importlib.import_module(PROG.removesuffix(".py"))
        self.pristine = cache(self.script.load)
        # Of all its subjects: class images are drawn beside the run folders, once a class.
        self.scratch = tempfile.TemporaryDirectory(prefix="vectorfit-")

    def load(self, base: Any) -> Any:
        """The base, read from disk once. A training changes what it is given, so each gets a copy."""
        return copy.deepcopy(self.pristine(base))

    def train(self, subject: Subject) -> Outcome:
        """Trains one subject, from its newest checkpoint where it has one. A finished one is only told.

        What the user can mend (photos, settings) is an outcome. Other errors are raised, so that Ray tries again.
        """
        try:
            scratch = Path(self.scratch.name)
            with (
                at_hand(subject.photos, scratch / "photos", kept=False) as photos,
                at_hand(subject.run, scratch / "runs", kept=True) as run,
            ):
                return self._trained(subject, photos, run)
        except VectorFitError as error:
            return Outcome(subject.name, "failed", "; ".join(str(error).splitlines()), os.getpid())

    def _trained(self, subject: Subject, photos: Path, run: Path) -> Outcome:
        own = ["--instance_dir", str(photos), "--output_dir", str(run), "--resume_from_checkpoint", "latest"]
        (setup,), _ = self.script.prepare([*self.flags, *own])
        state = "found finished" if setup.finished else "trained"
        self.script.train_subject(setup, self.load)
        entries = RunFolder(run).read_log()
        return Outcome(subject.name, state, f"loss {entries[-1]['loss']:.3f}" if entries else "", os.getpid())
