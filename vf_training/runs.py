"""The run folder: the contract between what trains, what shows and what measures.

RUN/config.json           settings, what was inferred, and how the run ended
RUN/vectors.safetensors   the result
RUN/log.jsonl             one line a step
RUN/analysis/             training strength and frozen vectors, as figures
RUN/samples/              pictures made on the way, `step_000000.png` first
RUN/checkpoints/          `step_000100/vectors.safetensors`, and what it takes to go on from there
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vectorfit.atomic import PathLike, write_atomically
from vectorfit.errors import VectorFitError


class RunFolder:
    """Paths and atomic writes of one run. Nothing is created before the first write."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    @property
    def vectors(self) -> Path:
        return self.path / "vectors.safetensors"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def samples(self, step: int) -> Path:
        return self.path / "samples" / f"step_{step:06d}.png"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints by step, oldest first. Only whole ones have such a name."""
        found = [f for f in (self.path / "checkpoints").glob("step_*") if f.name.removeprefix("step_").isdecimal()]
        return dict(sorted((int(folder.name.removeprefix("step_")), folder) for folder in found))

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes the checkpoint of `step` at the end, whole or not at all.

        Raises:
            VectorFitError: it cannot be written; older checkpoints stay.
        """
        target = self.checkpoint(step)
        aside = target.with_name(f".{target.name}.tmp")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            _sync(aside)
            self._discard(target)
            aside.rename(target)
            _sync(target.parent)
        except OSError as error:
            raise VectorFitError(f"{target}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def keep_checkpoints(self, steps: list[int]) -> None:
        """Removes the checkpoints of all other steps."""
        try:
            for step, folder in self.checkpoints().items():
                if step not in steps:
                    self._discard(folder)
        except OSError as error:
            raise VectorFitError(f"{self.path}: an old checkpoint cannot be removed ({error})") from error

    @staticmethod
    def _discard(folder: Path) -> None:
        """Renamed first, so that half a checkpoint never goes by a checkpoint's name."""
        if folder.exists():
            doomed = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def write_config(self, content: dict[str, Any]) -> None:
        write_atomically(self.config, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def read_config(self) -> dict[str, Any]:
        """The run's config.json. Raises VectorFitError when the folder holds none that can be read."""
        try:
            content: dict[str, Any] = json.loads(self.config.read_text(encoding="utf-8"))
        except OSError as error:
            raise VectorFitError(
                f"{self.path}: not a run folder, it has no readable config.json ({error.strerror})"
            ) from error
        except ValueError as error:
            raise VectorFitError(f"{self.config}: not valid JSON ({error})") from error
        return content

    def append_log(self, entry: dict[str, Any]) -> None:
        """Adds a line. Raises VectorFitError when it cannot be written."""
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise VectorFitError(f"{self.log}: cannot be written ({error.strerror or error})") from error

    def read_log(self) -> list[dict[str, Any]]:
        """The log's entries, up to the first line that is not whole: a killed run may leave half a line.

        Raises:
            VectorFitError: a whole line is no entry.
        """
        entries: list[dict[str, Any]] = []
        if not self.log.exists():
            return entries
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not (isinstance(entry, dict) and isinstance(entry.get("step"), int)):
                raise VectorFitError(f"{self.log}: line {len(entries) + 1} tells of no step; not the log of a training")
            entries.append(entry)
        return entries

    def cut_log(self, step: int) -> None:
        """Leaves the entries up to `step` only."""
        kept = [json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step]
        write_atomically(self.log, "".join(kept).encode())


def _sync(folder: Path) -> None:
    """Makes the names inside a folder durable, where the system lets one (Windows does not)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
