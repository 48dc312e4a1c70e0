"""Keeps a base model loaded and serves requests: images of one subject after the other, through pipeline.py."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from vectorfit import VectorFitError

from .base_models import BaseModel
from .families import family_of
from .latent_colours import LatentColours
from .pipeline import GeneratedImage, GenerationSettings, batches, generate, load_pipeline, set_subjects, subject_file

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
        steps = itertools.count(1)

        def step_ended(latents: dict[int, Tensor]) -> None:
            after_step(next(steps))
            for index, one in latents.items() if preview else ():
                if one.ndim == 3:  # some families pack latents into rows without a place
                    preview(index, self._colours(pipe).image(one))

        with self._lock:
            after_step(0)
            pipe = self._pipeline(request)
            with _scheduler(pipe, request.scheduler):
                return generate(pipe, request.prompts, request.seeds, request.settings, step_ended)

    def _pipeline(self, request: PromptBatch) -> DiffusionPipeline:
        """The base's pipeline with the request's subjects."""
        if self._pipe is None or self._base != request.base:
            self._pipe = self._base = self._map = self._composed = (
                None  # frees the memory before the next base is loaded
            )
            self._pipe, self._base = load_pipeline(request.base), request.base
        subjects = tuple((path, strength, _version(path)) for path, strength in request.subjects)
        if self._composed != subjects:
            self._composed = None  # if this fails, the next request composes again
            set_subjects(self._pipe, request.subjects)
            self._composed = subjects
        return self._pipe

    def _colours(self, pipe: DiffusionPipeline) -> LatentColours:
        """The colours of the base's latents."""
        if self._map is None:
            self._map = LatentColours(family_of(pipe), pipe)
        return self._map

    def release(self) -> None:
        """Frees the base and its memory, after the request in progress."""
        with self._lock:
            self._pipe = self._base = self._map = self._composed = None


def _version(path: Path) -> tuple[int, int]:
    """Changes when the subject file is written again. Raises VectorFitError when the file is gone."""
    try:
        status = subject_file(path).stat()
    except OSError as error:
        raise VectorFitError(f"{path}: cannot be read ({error.strerror}); expected a subject") from error
    return status.st_mtime_ns, status.st_size


@contextmanager
def _scheduler(pipe: DiffusionPipeline, name: str) -> Iterator[None]:
    """Within the context the pipeline has another scheduler, made from the configuration of its own.

    Every request gets a new one, because some schedulers keep state between calls.
    """
    own = pipe.scheduler
    scheduler_class = type(own) if name == OWN_SCHEDULER else getattr(diffusers, SCHEDULERS[name])
    pipe.scheduler = scheduler_class.from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
