"""A base model kept ready: pictures of one subject after the other, without loading it anew."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers import StableDiffusionPipeline

from vectorfit import VectorFitError

from .base_models import BaseModel
from .pipeline import Drawn, Sampling, batches, draw, load_pipeline, set_subjects, subject_file

# What a person picks by name -> the class of diffusers; the base's own comes with its weights.
OWN_SAMPLER = "the model's own"
SAMPLERS = {
    "DDIM": "DDIMScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "UniPC": "UniPCMultistepScheduler",
}


@dataclass(frozen=True)
class Order:
    """Pictures to be drawn: of which subjects at which strengths, one per (prompt, seed)."""

    base: BaseModel
    subjects: tuple[tuple[Path, float], ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    sampler: str = OWN_SAMPLER

    @property
    def steps(self) -> int:
        """Denoising steps in all, as `Engine.draw` reports them."""
        return len(batches(self.seeds, self.sampling.batch_size)) * self.sampling.num_inference_steps


class Engine:
    """Draws one order at a time, whoever asks. Holds one base at a time; a switch of subject does not reload it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: BaseModel | None = None
        self._pipe: StableDiffusionPipeline | None = None
        self._composed: object = None  # which subjects the pipeline's weights are of

    def draw(self, order: Order, told: Callable[[int], None] = lambda done: None) -> list[Drawn]:
        """The order's pictures.

        `told` is called with 0 when the order's turn has come, and with their number after every denoising step. What
        it raises ends the drawing.

        Raises:
            VectorFitError: the base cannot be had, a subject is damaged or of another base, an unknown sampler.
        """
        if order.sampler != OWN_SAMPLER and order.sampler not in SAMPLERS:
            raise VectorFitError(f"sampler {order.sampler!r}: expected {', '.join((OWN_SAMPLER, *SAMPLERS))}")
        steps = itertools.count(1)
        with self._lock:
            told(0)
            pipe = self._pipeline(order)
            with _sampler(pipe, order.sampler):
                return draw(pipe, order.prompts, order.seeds, order.sampling, lambda: told(next(steps)))

    def _pipeline(self, order: Order) -> StableDiffusionPipeline:
        """The base's pipeline with the order's subjects."""
        if self._pipe is None or self._base != order.base:
            self._pipe = self._base = self._composed = None  # one base at a time, also while the next is loaded
            self._pipe, self._base = load_pipeline(order.base), order.base
        wanted = tuple((path, strength, _version(path)) for path, strength in order.subjects)
        if self._composed != wanted:
            self._composed = None  # should it fail half-way, the next order composes anew
            set_subjects(self._pipe, order.subjects)
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
def _sampler(pipe: StableDiffusionPipeline, name: str) -> Iterator[None]:
    """Within the context the pipeline samples by another scheduler, which knows of the training what the own one knows.

    Every order gets a scheduler of its own: some keep a state from call to call.
    """
    own = pipe.scheduler
    kind = type(own) if name == OWN_SAMPLER else getattr(diffusers, SAMPLERS[name])
    pipe.scheduler = kind.from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
