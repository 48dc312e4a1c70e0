"""The run folder: what a training writes, and what the app, the evaluator and a resumed training read.

docs/run-folder.md lists all files and keys; tests/test_run_folder.py compares the list with real runs. Here are the
files and folders that every run has, and the sample grids. The rest is named where it is written: a DreamBooth run's
card and checkpoints in vf_dreambooth/card.py and checkpoint.py, a task's result and checkpoints in vf_tasks/results.py
and trainer.py, evaluation/ in eval/collection.py. The log's keys are where its entries are made:
train_dreambooth_vectorfit.py (rates: vf_dreambooth/optimization.py) and vf_tasks/trainer.py.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vectorfit.atomic import PathLike, write_atomically
from vectorfit.errors import VectorFitError

VECTORS = "vectors.safetensors"  # of a run, and of a DreamBooth checkpoint
CHECKPOINT = re.compile(r"(?:step_|checkpoint-)(\d+)")  # tasks of version 0.1.0 wrote checkpoint-100


class RunFolder:
    """Paths and atomic writes of one run. Nothing is created before the first write."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    @property
    def vectors(self) -> Path:
        return self.path / VECTORS

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    def sample_grid(self, step: int) -> Path:
        return self.path / "samples" / f"step_{step:06d}.png"

    def sample_grids(self) -> list[Path]:
        """The sample grids, oldest first."""
        return sorted((self.path / "samples").glob("step_*.png"))

    @property
    def checkpoints_folder(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints_folder / f"step_{step:06d}"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints by step, oldest first. Only complete ones have such a name."""
        matches = [(CHECKPOINT.fullmatch(path.name), path) for path in self.checkpoints_folder.glob("*")]
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    @contextmanager
    def new_checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to write into, which becomes the checkpoint of `step` at the end of the context if nothing failed.

        Raises:
            VectorFitError: the checkpoint cannot be written; older ones stay.
        """
        target = self.checkpoint(step)
        unfinished = target.with_name(f".{target.name}.tmp")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            yield unfinished
            _sync(unfinished)
            self._discard(target)
            unfinished.rename(target)
            _sync(target.parent)
        except OSError as error:
            raise VectorFitError(f"{target}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

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
        """Removes a folder. It is renamed first, so that a partly removed checkpoint never has a checkpoint's name."""
        if folder.exists():
            doomed = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def write_config(self, content: dict[str, Any]) -> None:
        write_atomically(self.config, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def read_config(self) -> dict[str, Any]:
        """The run's config.json. Raises VectorFitError if it is missing or not valid JSON."""
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
        """The log's entries, up to the first incomplete line: a killed run may leave one.

        Raises:
            VectorFitError: a line is valid JSON but not an entry with a step.
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
                raise VectorFitError(f"{self.log}: line {len(entries) + 1} has no step; not the log of a training")
            entries.append(entry)
        return entries

    def cut_log(self, step: int) -> None:
        """Removes the entries after `step`."""
        kept = [json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step]
        write_atomically(self.log, "".join(kept).encode())


def _sync(folder: Path) -> None:
    """Makes the names inside a folder durable, where the system can (Windows cannot)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
