"""A base model kept ready: pictures of one subject after the other, without loading it anew."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers import StableDiffusionPipeline

from vectorfit import VectorFitError

from .base_models import BaseModel
from .pipeline import Drawn, Sampling, draw, load_pipeline, set_subjects

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
        batches = -(-len(self.prompts) // self.sampling.batch_size)
        return batches * self.sampling.num_inference_steps


class Engine:
    """Draws one order at a time, whoever asks. Holds one base at a time; a switch of subject does not reload it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: BaseModel | None = None
        self._pipe: StableDiffusionPipeline | None = None
        self._composed: object = None  # which subjects the pipeline's weights are of

    def draw(self, order: Order, after_step: Callable[[], None] = lambda: None) -> list[Drawn]:
        """The order's pictures. `after_step` is called after every denoising step; what it raises ends the drawing.

        Raises:
            VectorFitError: the base cannot be had, a subject is damaged or of another base, an unknown sampler.
        """
        if order.sampler != OWN_SAMPLER and order.sampler not in SAMPLERS:
            raise VectorFitError(f"sampler {order.sampler!r}: expected {', '.join((OWN_SAMPLER, *SAMPLERS))}")
        with self._lock:
            pipe = self._pipeline(order)
            with _sampler(pipe, order.sampler):
                return draw(pipe, order.prompts, order.seeds, order.sampling, after_step)

    def _pipeline(self, order: Order) -> StableDiffusionPipeline:
        """The base's pipeline with the order's subjects."""
        if self._pipe is None or self._base != order.base:
            self.release()
            self._pipe, self._base = load_pipeline(order.base), order.base
        wanted = tuple((path, strength, path.stat().st_mtime_ns) for path, strength in order.subjects)
        if self._composed != wanted:
            self._composed = None  # should it fail half-way, the next order composes anew
            set_subjects(self._pipe, order.subjects)
            self._composed = wanted
        return self._pipe

    def release(self) -> None:
        """Lets the base go, and its memory with it."""
        self._pipe = self._base = self._composed = None


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
