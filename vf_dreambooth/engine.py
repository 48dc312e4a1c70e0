"""Keeps a base model loaded and serves requests: images of one subject after the other, through pipeline.py."""

import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.record import injection_of
from vf_training.device import free_memory

from .base_models import BaseModel
from .families import family_of
from .latent_colours import LatentColours
from .pipeline import (
    GeneratedImage,
    GenerationSettings,
    adapted_models,
    batches,
    generate,
    load_pipeline,
    scheduled,
    set_subjects,
    subject_file,
    suits,
)

# Name on the page -> class in diffusers.
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
    """Images to generate: of these subjects at these strengths, one image per (prompt, seed)."""

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
    """Handles one request at a time and holds one base at a time. Another subject does not reload the base."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_when_idle = False
        self._base: BaseModel | None = None
        self._pipe: DiffusionPipeline | None = None
        self._map: LatentColours | None = None  # of the base's latents, once a preview was asked for
        self._composed: object = None  # the subjects that are in the pipeline's weights now

    def generate(
        self,
        request: PromptBatch,
        after_step: Callable[[int], None] = lambda done: None,
        preview: Callable[[int, Image.Image], None] | None = None,
    ) -> list[GeneratedImage]:
        """Generates the images of a request.

        `after_step` is called with 0 when the request's turn comes, then after every denoising step with the number of
        steps so far. An exception in it ends the generation. `preview` gets a rough picture of every image after every
        step, with the index of its prompt.

        Raises:
            VectorFitError: the base cannot be loaded, a subject is damaged or of another base, or an unknown scheduler.
        """
        if request.scheduler != OWN_SCHEDULER and request.scheduler not in SCHEDULERS:
            raise VectorFitError(f"scheduler {request.scheduler!r}: expected {', '.join((OWN_SCHEDULER, *SCHEDULERS))}")
        steps, colours = itertools.count(1), None

        def step_ended(latents: dict[int, Tensor]) -> None:
            after_step(next(steps))
            for index, one in latents.items() if preview and colours else ():
                if one.ndim == 3:  # some families pack latents into rows without a place
                    preview(index, colours.image(one))

        with self._lock:
            after_step(0)
            pipe = self._pipeline(request)
            _check_scheduler(pipe, request.scheduler)
            colours = self._colours(pipe) if preview else None
            plain = nullcontext() if request.subjects else self._as_base(pipe)
            try:
                with plain, scheduled(pipe, SCHEDULERS.get(request.scheduler)):
                    return generate(pipe, request.prompts, request.seeds, request.settings, step_ended)
            finally:
                del pipe, plain
                if self._free_when_idle:
                    self._free()

    def _pipeline(self, request: PromptBatch) -> DiffusionPipeline:
        """The base's pipeline with the request's subjects; without any, with those of the request before."""
        subjects = tuple((path, strength, _version(path)) for path, strength in request.subjects)
        if self._pipe is None or self._base != request.base or not suits(self._pipe, request.subjects):
            self._free()  # before the next base is loaded
            self._pipe, self._base = load_pipeline(request.base, request.subjects), request.base
            self._composed = subjects
        if subjects and self._composed != subjects:
            self._composed = None  # if this fails, the next request composes again
            set_subjects(self._pipe, request.subjects)
            self._composed = subjects
        return self._pipe

    def _colours(self, pipe: DiffusionPipeline) -> LatentColours:
        """The colours of the base's latents."""
        if self._map is None:
            self._map = LatentColours(family_of(pipe), pipe)
        return self._map

    def _as_base(self, pipe: DiffusionPipeline) -> AbstractContextManager:
        """Within the context the pipeline is the base, and composes nothing for it where subjects are vectors."""
        models = adapted_models(pipe)
        if injection_of(models).layers:
            return vf.disabled(models)
        self._composed = None
        set_subjects(pipe, [])  # takes a file of another method out
        return nullcontext()

    def _free(self) -> None:
        self._pipe = self._base = self._map = self._composed = None
        self._free_when_idle = False
        free_memory()

    def release(self) -> None:
        """Frees the base and its memory, after the request in progress."""
        with self._lock:
            self._free()

    def release_when_idle(self) -> None:
        """As `release`, but without waiting: the request in progress, if there is one, frees the base at its end."""
        self._free_when_idle = True
        if self._lock.acquire(blocking=False):
            try:
                self._free()
            finally:
                self._lock.release()


def _version(path: Path) -> tuple[int, int]:
    """Changes when the subject file is written again. Raises VectorFitError when the file is gone."""
    try:
        status = subject_file(path).stat()
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); expected a subject") from error
    return status.st_mtime_ns, status.st_size


def _check_scheduler(pipe: DiffusionPipeline, name: str) -> None:
    """Raises VectorFitError for a scheduler that the pipeline's family does not generate with."""
    family = family_of(pipe)
    if name != OWN_SCHEDULER and not family.takes_other_schedulers:
        raise VectorFitError(f"scheduler {name!r}: a {family.name} generates with {OWN_SCHEDULER!r} alone; choose that")
