"""A base model kept ready: pictures of one subject after the other, without loading it anew."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers import DiffusionPipeline

from vectorfit import VectorFitError

from .base_models import BaseModel
from .pipeline import GeneratedImage, GenerationSettings, batches, generate, load_pipeline, set_subjects, subject_file

# What a person picks by name -> the class of diffusers; the base's own comes with its weights.
OWN_SCHEDULER = "the model's own"
SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "UniPC": "UniPCMultistepScheduler",
}


@dataclass(frozen=True)
class PromptBatch:
    """Pictures to be drawn: of which subjects at which strengths, one per (prompt, seed)."""

    base: BaseModel
    subjects: tuple[tuple[Path, float], ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: GenerationSettings
    scheduler: str = OWN_SCHEDULER

    @property
    def steps(self) -> int:
        """Denoising steps in all, as `Engine.generate` reports them."""
        return len(batches(self.seeds, self.settings.batch_size)) * self.settings.num_inference_steps


class Engine:
    """Generates one batch at a time, whoever asks. Holds one base at a time; a switch of subject does not reload it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: BaseModel | None = None
        self._pipe: DiffusionPipeline | None = None
        self._composed: object = None  # which subjects the pipeline's weights are of

    def generate(
        self, batch: PromptBatch, after_step: Callable[[int], None] = lambda done: None
    ) -> list[GeneratedImage]:
        """The pictures of a batch.

        `after_step` is called with 0 when its turn comes, then after every denoising step with the number of
        steps so far. An exception in it ends the generation.

        Raises:
            VectorFitError: the base cannot be had, a subject is damaged or of another base, an unknown scheduler.
        """
        if batch.scheduler != OWN_SCHEDULER and batch.scheduler not in SCHEDULERS:
            raise VectorFitError(f"scheduler {batch.scheduler!r}: expected {', '.join((OWN_SCHEDULER, *SCHEDULERS))}")
        steps = itertools.count(1)
        with self._lock:
            after_step(0)
            pipe = self._pipeline(batch)
            with _scheduler(pipe, batch.scheduler):
                return generate(pipe, batch.prompts, batch.seeds, batch.settings, lambda: after_step(next(steps)))

    def _pipeline(self, batch: PromptBatch) -> DiffusionPipeline:
        """The base's pipeline with the subjects of a batch."""
        if self._pipe is None or self._base != batch.base:
            self._pipe = self._base = self._composed = None  # one base at a time, also while the next is loaded
            self._pipe, self._base = load_pipeline(batch.base), batch.base
        wanted = tuple((path, strength, _version(path)) for path, strength in batch.subjects)
        if self._composed != wanted:
            self._composed = None  # should it fail half-way, the next batch composes anew
            set_subjects(self._pipe, batch.subjects)
            self._composed = wanted
        return self._pipe

    def release(self) -> None:
        """Lets the base go, and its memory with it, once nothing is being drawn."""
        with self._lock:
            self._pipe = self._base = self._composed = None


def _version(path: Path) -> tuple[int, int]:
    """What tells a subject file from one that was written over it. Raises VectorFitError when it is gone."""
    try:
        status = subject_file(path).stat()
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); expected a subject") from error
    return status.st_mtime_ns, status.st_size


@contextmanager
def _scheduler(pipe: DiffusionPipeline, name: str) -> Iterator[None]:
    """Within the context the pipeline samples by another scheduler, which knows of the training what the own one knows.

    Every batch gets a scheduler of its own: some keep a state from call to call.
    """
    own = pipe.scheduler
    kind = type(own) if name == OWN_SCHEDULER else getattr(diffusers, SCHEDULERS[name])
    pipe.scheduler = kind.from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
