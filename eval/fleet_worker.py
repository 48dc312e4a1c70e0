"""One worker of a fleet that scores: it loads the base and the encoders once, and scores one run after the other."""

import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline

from vectorfit import VectorFitError
from vf_dreambooth.base_models import BaseModel
from vf_dreambooth.pipeline import load_pipeline, suits
from vf_training.device import free_memory
from vf_training.fleet import Outcome
from vf_training.runs import RunFolder
from vf_training.storage import Storage, at_hand

from . import generation, scoring
from .collection import EVALUATION, Subject, gather, mean_facts
from .dreambench import FIRST_SEED, Prompt
from .encoders import Encoders
from .protocols import Protocol

SCORES = "scores.json"  # in a run's evaluation folder
NOT_NEEDED = ("checkpoints", "samples", "analysis", "selection")  # of a run


@dataclass(frozen=True)
class Run:
    """A run to score: its folder's name, its subject, and where the run and the photos are."""

    name: str
    subject: str
    url: str
    photos: str


@dataclass(frozen=True)
class Evaluation:
    """What to generate of every run, and how to score it. `prompts` is live, object or the prompts themselves."""

    protocol: Protocol
    prompts: str | tuple[Prompt, ...] | None = None
    images_per_prompt: int = 4
    seed: int = FIRST_SEED
    class_images: bool = True
    base_model: str | None = None
    method: str | None = None
    allow_missing: bool = False
    dino_weights: Path | None = None
    clip_weights: Path | None = None
    device: str | None = None


class Worker:
    """Generates the missing images of runs and scores them, one run at a time."""

    def __init__(self, evaluation: Evaluation, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.evaluation = evaluation
        self.base: BaseModel | None = None
        self.pipe: DiffusionPipeline | None = None
        self.scratch = tempfile.TemporaryDirectory(prefix="vectorfit-")

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders, loaded once."""
        wanted = self.evaluation
        device = wanted.device or str(PartialState().device)
        return Encoders.load(wanted.protocol, wanted.dino_weights, wanted.clip_weights, device)

    def load(self, base: BaseModel, subjects: list[tuple[Path, float]], device: torch.device) -> DiffusionPipeline:
        """The base's pipeline, kept for the runs that follow, until one has another base or precision."""
        if self.pipe is None or self.base != base or not suits(self.pipe, subjects):
            self.pipe = None
            free_memory()
            self.pipe, self.base = load_pipeline(base, subjects, device=device), base
        return self.pipe

    def work(self, run: Run) -> Outcome:
        """Generates the missing images of a run and scores them, into its evaluation folder.

        A run whose scores are of these images, photos, protocol and encoders is only told. What the user can mend is an
        outcome. Other errors are raised, so that Ray tries again.
        """
        photos, runs = (Path(self.scratch.name) / name for name in ("photos", "runs"))
        try:
            with (
                at_hand(run.photos, photos, kept=False) as of_subject,
                at_hand(run.url, runs, kept=True, without=NOT_NEEDED) as folder,
            ):
                return self._scored(run, of_subject, folder)
        except VectorFitError as error:
            reason = "; ".join(str(error).splitlines())
            for copies, url in ((photos, run.photos), (runs, run.url)):  # a user does not know the copies
                reason = reason.replace(str(copies), url.rpartition("/")[0])
            return Outcome(run.name, "failed", reason, os.getpid())

    def _scored(self, run: Run, photos: Path, folder: Path) -> Outcome:
        wanted, encoders = self.evaluation, self.encoders  # first: without them there is no use in drawing
        if not RunFolder(folder).vectors.exists():
            raise VectorFitError(f"{folder}: a run without a subject file; expected a finished training")
        options = {"images_per_prompt": wanted.images_per_prompt, "seed": wanted.seed}
        task = generation.task_of(folder, None, wanted.prompts, class_images=wanted.class_images, **options)
        generation.generate(task, wanted.base_model, self.load)
        (subject,) = gather([task.out], photos, allow_missing=wanted.allow_missing)
        result = kept_result(task.out / SCORES, subject, scoring.measure(wanted.protocol, encoders))
        state = "scored" if result is None else "found finished"
        if result is None:
            result = self._result(run, subject)
            scoring.write(result, task.out / SCORES)
        return Outcome(run.name, state, _told(result), os.getpid())

    def _result(self, run: Run, subject: Subject) -> dict[str, Any]:
        """What `eval score` gives for this run alone, with the photos' places on their storage."""
        wanted, facts = self.evaluation, mean_facts([subject.facts()])
        method = str(facts.pop("method", run.name))
        evaluation = Storage(f"{run.url}/{EVALUATION}")
        places = {
            "folder": ".",
            "reference_files": [
                Storage(f"{run.photos}/{path.name}").seen_from(evaluation) for path in subject.references
            ],
        }
        scores = scoring.score_subject(subject, self.encoders, wanted.protocol)
        return scoring.result_of(
            {subject.name: {**scores, **places}},
            wanted.protocol,
            self.encoders,
            method=wanted.method or method,
            facts=facts,
            allow_missing=wanted.allow_missing,
        )


def kept_result(file: Path, subject: Subject, measured_with: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a file if it is of these images and photos, measured with the same; otherwise None."""
    try:
        result = scoring.read(file)
        scores = result["subjects"][subject.name]
        same = all(result[key] == value for key, value in measured_with.items())
    except (VectorFitError, LookupError, TypeError):  # none, a damaged one, or one of another version
        return None
    known = {**scoring.hashes(subject), "missing": subject.missing}
    of_these = len(result["subjects"]) == 1 and all(scores.get(key) == value for key, value in known.items())
    return result if same and of_these else None


def _told(result: dict[str, Any]) -> str:
    scores = {label: result["overall"].get(kind) for kind, label in result["labels"].items()}
    return ", ".join(f"{label} {score['mean']:.3f}" for label, score in scores.items() if score is not None)
