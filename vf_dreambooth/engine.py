"""Keeps a base model loaded and serves requests, those that are alike in one batch, through pipeline.py."""

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.record import injection_of
from vf_training import methods
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
    subject_bank,
    subject_file,
    suits,
)

MOST_TOGETHER = 8  # images of several requests in one batch
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


class _Turn:
    """A request that waits for its images, and what became of it."""

    def __init__(
        self,
        request: PromptBatch,
        after_step: Callable[[int], None],
        preview: Callable[[int, Image.Image], None] | None,
    ) -> None:
        self.request, self.after_step, self.preview = request, after_step, preview
        self.images: list[GeneratedImage] | None = None
        self.error: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.images is not None or self.error is not None

    def tell(self, done: int) -> None:
        """Tells that so many steps are done; what fails in it ends this request alone."""
        if self.error is None:
            try:
                self.after_step(done)
            except Exception as error:
                self.error = error


class Engine:
    """Holds one base at a time. Another subject does not reload it.

    Requests may come from several threads. Those that wait at the same time and are alike are drawn in one batch, each
    image with its own subjects; the others take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_when_idle = False
        self._base: BaseModel | None = None
        self._pipe: DiffusionPipeline | None = None
        self._map: LatentColours | None = None  # of the base's latents, once a preview was asked for
        self._composed: object = None  # the subjects that are in the pipeline's weights now
        self._bank: tuple[object, vf.SubjectBank] | None = None  # of the newest batch of several subjects
        self._waiting: list[_Turn] = []

    def generate(
        self,
        request: PromptBatch,
        after_step: Callable[[int], None] = lambda done: None,
        preview: Callable[[int, Image.Image], None] | None = None,
    ) -> list[GeneratedImage]:
        """Generates the images of a request.

        `after_step` is called with 0 when the request's turn comes, then after every denoising step with the number of
        steps so far. An exception in it ends the generation. `preview` gets a rough picture of every image after every
        step, with the index of its prompt. Images that are drawn in one batch with another request's differ by rounding
        from those drawn alone.

        Raises:
            VectorFitError: the base cannot be loaded, a subject is damaged or of another base, or an unknown scheduler.
        """
        if request.scheduler != OWN_SCHEDULER and request.scheduler not in SCHEDULERS:
            raise VectorFitError(f"scheduler {request.scheduler!r}: expected {', '.join((OWN_SCHEDULER, *SCHEDULERS))}")
        turn = _Turn(request, after_step, preview)
        self._waiting.append(turn)
        with self._lock:
            if not turn.finished:  # it was not drawn with another's
                self._draw(self._taken(turn))
        if turn.error is not None:
            raise turn.error
        assert turn.images is not None
        return turn.images

    def _taken(self, turn: _Turn) -> list[_Turn]:
        """A turn, and those that wait and can be drawn in its batch, taken from the queue."""
        taken, count = [turn], len(turn.request.seeds)
        for other in list(self._waiting):
            fits = count + len(other.request.seeds) <= MOST_TOGETHER
            if other is not turn and fits and alike(turn.request, other.request):
                taken.append(other)
                count += len(other.request.seeds)
        for one in taken:
            self._waiting.remove(one)
        return taken

    def _draw(self, turns: Sequence[_Turn]) -> None:
        try:
            if len(turns) > 1:
                with suppress(Exception):  # one of them has a wrong subject, say; alone it is told to that one
                    self._draw_together(turns)
            for turn in turns:
                if not turn.finished:
                    self._draw_alone(turn)
        finally:
            if self._free_when_idle:
                self._free()

    def _draw_alone(self, turn: _Turn) -> None:
        request, steps = turn.request, itertools.count(1)
        pipe = plain = None
        try:
            turn.after_step(0)
            pipe = self._pipeline(request)
            _check_scheduler(pipe, request.scheduler)
            colours = self._colours(pipe) if turn.preview else None

            def step_ended(latents: dict[int, Tensor]) -> None:
                turn.after_step(next(steps))
                for index, one in latents.items():
                    _show(turn, index, one, colours)

            plain = nullcontext() if request.subjects else self._as_base(pipe)
            with plain, scheduled(pipe, SCHEDULERS.get(request.scheduler)):
                turn.images = generate(pipe, request.prompts, request.seeds, request.settings, step_ended)
        except Exception as error:
            turn.error = error
        finally:
            del pipe, plain  # an error holds on to what is here

    def _draw_together(self, turns: Sequence[_Turn]) -> None:
        """Draws all images of alike requests in one batch, each with its request's subjects.

        Raises whatever hinders the batch before it is begun; what fails while it is drawn is each request's error.
        """
        first = turns[0].request
        images = [(turn, index) for turn in turns for index in range(len(turn.request.seeds))]
        prompts, seeds = (
            [getattr(turn.request, name)[index] for turn, index in images] for name in ("prompts", "seeds")
        )
        settings = replace(first.settings, batch_size=max(first.settings.batch_size, len(images)))
        pipe = self._pipeline(replace(first, subjects=()))
        _check_scheduler(pipe, first.scheduler)
        bank = self._bank_of(pipe, [turn.request.subjects for turn in turns])
        colours = self._colours(pipe) if any(turn.preview for turn in turns) else None
        for turn in turns:
            turn.tell(0)
        steps = itertools.count(1)

        def step_ended(latents: dict[int, Tensor]) -> None:
            done = min(next(steps), settings.num_inference_steps)
            for turn in turns:
                turn.tell(done * turn.request.steps // settings.num_inference_steps)
            if all(turn.error is not None for turn in turns):
                raise _AllEnded
            for index, one in latents.items():
                _show(images[index][0], images[index][1], one, colours)

        def rows(indices: list[int]) -> AbstractContextManager:
            return bank.rows([_mix(images[index][0].request.subjects) for index in indices])

        try:
            with scheduled(pipe, SCHEDULERS.get(first.scheduler)):
                drawn = generate(pipe, prompts, seeds, settings, step_ended, range(len(images)), rows)
        except _AllEnded:
            return
        except Exception as error:
            for turn in turns:
                turn.error = turn.error or error
            return
        for turn in turns:
            turn.images = [one for one, (own, _) in zip(drawn, images, strict=True) if own is turn]

    def _bank_of(self, pipe: DiffusionPipeline, subjects: Sequence[tuple[tuple[Path, float], ...]]) -> vf.SubjectBank:
        """A bank of these subjects; that of the batch before where it has them all, as they are now."""
        files = list(dict.fromkeys(path for mix in subjects for path, _ in mix))
        key = frozenset((path, _version(path)) for path in files)
        if self._bank is None or not key <= self._bank[0]:  # type: ignore[operator]
            self._bank, self._composed = None, None  # layers may be made anew
            self._bank = key, subject_bank(pipe, files)
        return self._bank[1]

    def _pipeline(self, request: PromptBatch) -> DiffusionPipeline:
        """The base's pipeline with the request's subjects; without any, with those of the request before."""
        subjects = tuple((path, strength, _version(path)) for path, strength in request.subjects)
        if self._pipe is None or self._base != request.base or not suits(self._pipe, request.subjects):
            self._free()  # before the next base is loaded
            self._pipe, self._base = load_pipeline(request.base, request.subjects), request.base
            self._composed = subjects
        if subjects and self._composed != subjects:
            self._composed = self._bank = None  # if this fails, the next request composes again
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
        self._composed = self._bank = None
        set_subjects(pipe, [])  # takes a file of another method out
        return nullcontext()

    def _free(self) -> None:
        self._pipe = self._base = self._map = self._composed = self._bank = None
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


class _AllEnded(Exception):
    """Nobody waits for a batch any more."""


def alike(request: PromptBatch, other: PromptBatch) -> bool:
    """Whether two requests can be drawn in one batch: of one base, sampled alike, with subjects that are vectors."""
    sampled_alike = (request.base, request.settings, request.scheduler) == (
        *(other.base, other.settings),
        other.scheduler,
    )
    return sampled_alike and all(_holds_vectors(path) for path, _ in (*request.subjects, *other.subjects))


def _holds_vectors(path: Path) -> bool:
    """Whether a subject is a file of vectors; one that cannot be read is told of when it is drawn."""
    try:
        return methods.holds_vectors(vf.read_metadata(subject_file(path)))
    except VectorFitError:
        return False


def _mix(subjects: tuple[tuple[Path, float], ...]) -> dict[str, float] | None:
    """Subjects as a row of a bank."""
    mix: dict[str, float] = {}
    for path, strength in subjects:
        mix[str(path)] = mix.get(str(path), 0.0) + strength
    return mix or None


def _show(turn: _Turn, index: int, latents: Tensor, colours: LatentColours | None) -> None:
    """Gives a request a rough picture of one of its images."""
    # Some families pack latents into rows without a place.
    if turn.preview is not None and colours is not None and latents.ndim == 3 and turn.error is None:
        turn.preview(index, colours.image(latents))


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
