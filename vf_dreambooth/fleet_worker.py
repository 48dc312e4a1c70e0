"""One worker of a fleet that trains: it loads the base once, and trains one subject after the other."""

import copy
import importlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_training.fleet import Outcome
from vf_training.runs import RunFolder
from vf_training.storage import at_hand

from .cli import PROG


@dataclass(frozen=True)
class Subject:
    """A subject to train: its name, its photos, and where its run belongs."""

    name: str
    photos: str
    run: str


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

    def work(self, subject: Subject) -> Outcome:
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
