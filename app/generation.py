"""The page's requests: generates the images that a person asks for, each saved as a PNG that carries its settings."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.base_models import BaseModel
from vf_dreambooth.engine import OWN_SCHEDULER, PromptBatch, alike
from vf_dreambooth.images import grid, write_png
from vf_dreambooth.pipeline import GeneratedImage, GenerationSettings

from .subjects import Library, Subject

MAX_IMAGES, MAX_SHEET_IMAGES = 16, 64
MAX_PROMPT_LENGTH = 2000  # characters; the text encoder reads 77 tokens
SIZES = (64, 1024)
FILE_LIFETIME = 3600  # seconds that a generated file stays on the disk at least
BLANKED = "The base model's safety checker blanked {} of {} images. Try other words or another seed."


class Cancelled(Exception):
    """The person cancelled the request."""


class Draws(Protocol):
    """An engine that generates images, for several threads: `vf_dreambooth.engine.Engine`, or a test's stand-in."""

    def generate(
        self,
        batch: PromptBatch,
        after_step: Callable[[int], None],
        preview: Callable[[int, Image.Image], None] | None = None,
    ) -> list[GeneratedImage]: ...

    def release(self) -> None: ...


class Progress(Protocol):
    """Is called after every denoising step, with the steps done, all steps, and the name of what is generated."""

    def __call__(self, done: int, total: int, what: str) -> None: ...


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate: subjects by name with their strengths (none: the base alone), prompt, and sampling."""

    subjects: tuple[tuple[str, float], ...]
    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    count: int = 1
    steps: int = 25
    guidance: float = 4.0
    size: int = 64
    sampler: str = OWN_SCHEDULER

    def check(self) -> None:
        """Raises VectorFitError with every value that is out of range."""
        ranges = {
            "count": (self.count, 1, MAX_IMAGES),
            "steps": (self.steps, 1, 200),
            "guidance": (self.guidance, 0, 30),
            "size": (self.size, *SIZES),
            "seed": (self.seed, 0, 2**32 - self.count),
            "characters of the prompt": (len(self.prompt), 0, MAX_PROMPT_LENGTH),
            "characters of the negative prompt": (len(self.negative_prompt), 0, MAX_PROMPT_LENGTH),
            **{f"strength of {name}": (strength, 0, 2) for name, strength in self.subjects},
        }
        messages = [
            f"{name}: got {value}, expected {low} to {high}"
            for name, (value, low, high) in ranges.items()
            if not low <= value <= high
        ]
        messages += [f"size: got {self.size}, expected a multiple of 64"] if self.size % 64 else []
        messages += ["prompt: empty, expected some words"] if not self.prompt.strip() else []
        names = [name for name, _ in self.subjects]
        messages += (
            ["both subjects are the same; choose another second subject"] if len(set(names)) < len(names) else []
        )
        if messages:
            raise VectorFitError("\n".join(messages))


@dataclass(frozen=True)
class SavedImage:
    """An image file, and the settings it was generated with."""

    path: Path
    parameters: dict


@dataclass(frozen=True)
class GenerationResult:
    """The personalised images, the base's images at the same seeds, and notes for the person."""

    images: list[SavedImage]
    base_images: list[SavedImage]
    notes: list[str]


class Generator:
    """Generates images of a library's subjects. It keeps nothing between requests but the files it wrote."""

    def __init__(self, library: Library, engine: Draws, default_base: BaseModel, scratch: Path) -> None:
        self.library, self.engine, self.default_base, self.scratch = library, engine, default_base, scratch

    def sampling(self, name: str | None) -> GenerationSettings:
        """The default sampling of a subject's base."""
        return GenerationSettings.of((self._base([self.library.find(name)]) if name else self.default_base).preset)

    def _base(self, subjects: Sequence[Subject]) -> BaseModel:
        """The base of all subjects. Raises VectorFitError if they have different bases."""
        bases = [self.library.base_of(subject) for subject in subjects] or [self.default_base]
        if any(base != bases[0] for base in bases):
            names = " and ".join(f"{s.name} of {b.name}" for s, b in zip(subjects, bases, strict=True))
            raise VectorFitError(f"{names}: subjects of different base models do not mix; choose two of one base")
        return bases[0]

    def _batch(self, request: GenerationRequest) -> PromptBatch:
        request.check()
        subjects = [self.library.find(name) for name, _ in request.subjects]
        base = self._base(subjects)
        sampling = replace(
            GenerationSettings.of(base.preset),
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            resolution=request.size,
            negative_prompt=request.negative_prompt,
        )
        strengths = [strength for _, strength in request.subjects]
        seeds = tuple(request.seed + index for index in range(request.count))
        files = tuple((subject.path, strength) for subject, strength in zip(subjects, strengths, strict=True))
        return PromptBatch(base, files, (request.prompt,) * request.count, seeds, sampling, request.sampler)

    def check(self, request: GenerationRequest) -> BaseModel:
        """The base that a request will use. Raises VectorFitError as `generate` would."""
        return self._batch(request).base

    def alike(self, request: GenerationRequest, other: GenerationRequest) -> bool:
        """Whether the engine can draw two requests in one batch."""
        try:
            return alike(self._batch(request), self._batch(other))
        except VectorFitError:  # a subject is gone since
            return False

    def generate(
        self,
        request: GenerationRequest,
        compare: bool,
        progress: Progress,
        cancel: threading.Event,
        drawn: Callable[[SavedImage, bool], None] = lambda image, base: None,
        preview: Callable[[int, bool, Image.Image], None] | None = None,
    ) -> GenerationResult:
        """Generates the request's images; with `compare` the base's images at the same seeds first.

        `drawn` gets every image as soon as its batch is done, and whether it is the base's. `preview` gets the seed of
        an image in progress, whether it is the base's, and a rough picture of it.

        Raises:
            VectorFitError: the request is out of range, or a subject is missing or does not load.
            Cancelled: `cancel` was set.
        """
        batch = self._batch(request)
        base_batch = replace(batch, subjects=())
        parts = [(base_batch, replace(request, subjects=()))] if compare and batch.subjects else []
        parts = [(small, asked) for whole, asked in [*parts, (batch, request)] for small in _small(whole)]
        names = [asked.subjects[0][0] if asked.subjects else "base" for _, asked in parts]
        folder, images, base_images, all_drawn = self.new_folder(), [], [], []
        batches = [(small, name) for (small, _), name in zip(parts, names, strict=True)]
        for (small, asked), new in zip(parts, self._draw(batches, progress, cancel, preview), strict=True):
            is_base = not asked.subjects and bool(request.subjects)
            for image in self._write(folder, asked, small, new):
                (base_images if is_base else images).append(image)
                drawn(image, is_base)
            all_drawn += new
        return GenerationResult(images, base_images, _notes(all_drawn))

    def strength_sweep(
        self, request: GenerationRequest, strengths: Sequence[float], progress: Progress, cancel: threading.Event
    ) -> GenerationResult:
        """One sheet of the first subject at several strengths: a row per seed, a column per strength."""
        if not request.subjects:
            raise VectorFitError("a sweep of strengths needs a subject; choose one")
        name, others = request.subjects[0][0], request.subjects[1:]
        requests = [replace(request, subjects=((name, strength), *others)) for strength in strengths]
        columns = [f"{strength:g}" for strength in strengths]
        rows = [f"seed {request.seed + index}" for index in range(request.count)]
        return self._sheet(requests, columns, rows, progress, cancel)

    def prompt_table(
        self,
        request: GenerationRequest,
        names: Sequence[str],
        prompts: Sequence[str],
        progress: Progress,
        cancel: threading.Event,
    ) -> GenerationResult:
        """One sheet of prompts x subjects at one seed. Each subject uses the sampling of its base.

        {} in a prompt stands for the subject's trigger phrase.
        """
        if not names or not prompts:
            raise VectorFitError(f"got {len(names)} subjects and {len(prompts)} prompts; expected at least one of each")
        requests = []
        for name in names:
            subject, sampling = self.library.find(name), self.sampling(name)
            of_subject = replace(
                request,
                subjects=((name, 1.0),),
                count=1,
                steps=sampling.num_inference_steps,
                guidance=sampling.guidance_scale,
                size=sampling.resolution,
            )
            requests += [replace(of_subject, prompt=prompt.replace("{}", subject.trigger)) for prompt in prompts]
        return self._sheet(requests, list(names), list(prompts), progress, cancel)

    def _sheet(
        self,
        requests: Sequence[GenerationRequest],
        columns: list[str],
        rows: list[str],
        progress: Progress,
        cancel: threading.Event,
    ) -> GenerationResult:
        """Generates the requests, column after column, and joins the images into one sheet."""
        count = sum(request.count for request in requests)
        if count > MAX_SHEET_IMAGES:
            raise VectorFitError(f"{count} images; expected at most {MAX_SHEET_IMAGES} on one sheet")
        batches = [(self._batch(request), request.subjects[0][0]) for request in requests]
        drawn = [image for images in self._draw(batches, progress, cancel) for image in images]
        by_column = [[one.image for one in drawn[i * len(rows) : (i + 1) * len(rows)]] for i in range(len(columns))]
        cell = min(256, max(128, requests[0].size))
        by_row = [list(row) for row in zip(*by_column, strict=True)]
        sheet = grid(by_row, row_titles=rows, column_titles=columns, cell=cell)
        bases = sorted({batch.base.name for batch, _ in batches})
        parameters = {"columns": columns, "rows": rows, "base_model": ", ".join(bases), **_shared(requests)}
        path = self.new_folder() / "sheet.png"
        write_png(path, sheet, parameters)
        return GenerationResult([SavedImage(path, parameters)], [], _notes(drawn))

    def _draw(
        self,
        batches: Sequence[tuple[PromptBatch, str]],
        progress: Progress,
        cancel: threading.Event,
        preview: Callable[[int, bool, Image.Image], None] | None = None,
    ) -> Iterator[list[GeneratedImage]]:
        """The images of one batch after the other, each as soon as it is drawn."""
        total, steps_before = sum(batch.steps for batch, _ in batches), 0
        for batch, what in batches:

            def after_step(done: int, before: int = steps_before, most: int = batch.steps, what: str = what) -> None:
                if cancel.is_set():
                    raise Cancelled
                progress(before + min(done, most), total, what)  # PNDM takes one step more than it is asked for

            yield self.engine.generate(batch, after_step, _by_seed(batch, preview))
            steps_before += batch.steps

    def new_folder(self) -> Path:
        """A new folder for files that a person will see or download."""
        folder = self.scratch / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def remove_old_files(self) -> None:
        """Removes the folders that are older than `FILE_LIFETIME`."""
        for folder in self.scratch.glob("*"):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > FILE_LIFETIME:
                    shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self, folder: Path, request: GenerationRequest, batch: PromptBatch, drawn: Sequence[GeneratedImage]
    ) -> list[SavedImage]:
        saved = []
        name = request.subjects[0][0].rpartition("/")[2] if request.subjects else "base"
        for seed, one in zip(batch.seeds, drawn, strict=True):
            parameters = parameters_of(request, batch.base) | {"seed": seed}
            path = folder / f"{name}-{seed}.png"
            write_png(path, one.image, parameters)
            saved.append(SavedImage(path, parameters))
        return saved


def _by_seed(
    batch: PromptBatch, preview: Callable[[int, bool, Image.Image], None] | None
) -> Callable[[int, Image.Image], None] | None:
    """A preview by an image's place in a batch, for one by its seed."""
    if preview is None:
        return None
    return lambda index, image: preview(batch.seeds[index], not batch.subjects, image)


def _small(batch: PromptBatch) -> list[PromptBatch]:
    """The batch in parts of neighbouring seeds that the engine draws at once. The pictures stay the same."""
    size = batch.settings.batch_size
    starts = range(0, len(batch.seeds), size)
    return [
        replace(batch, prompts=batch.prompts[first : first + size], seeds=batch.seeds[first : first + size])
        for first in starts
    ]


def parameters_of(request: GenerationRequest, base: BaseModel) -> dict:
    """The settings that are written into an image file."""
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "subjects": [{"name": name, "strength": strength} for name, strength in request.subjects],
        "base_model": base.name,
        "seed": request.seed,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "resolution": request.size,
        "sampler": request.sampler,
    }


def _shared(requests: Sequence[GenerationRequest]) -> dict:
    """The settings of a sheet: a value where all its requests agree, otherwise the list of the different values."""
    each = {
        "prompt": [request.prompt for request in requests],
        "negative_prompt": [request.negative_prompt for request in requests],
        "subjects": [name for request in requests for name, _ in request.subjects],
        "strength": [strength for request in requests for _, strength in request.subjects],
        "seed": [request.seed for request in requests],
        "num_inference_steps": [request.steps for request in requests],
        "guidance_scale": [request.guidance for request in requests],
        "resolution": [request.size for request in requests],
        "sampler": [request.sampler for request in requests],
    }
    different = {name: list(dict.fromkeys(values)) for name, values in each.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in different.items()}


def _notes(drawn: Sequence[GeneratedImage]) -> list[str]:
    blanked = sum(one.blanked for one in drawn)
    return [BLANKED.format(blanked, len(drawn))] if blanked else []


def strengths_between(low: float, high: float, count: int) -> list[float]:
    """`count` strengths at equal distances from `low` to `high`. Raises VectorFitError for an invalid range."""
    if not (0 <= low < high <= 2 and 2 <= count <= MAX_IMAGES):
        raise VectorFitError(f"strengths {low} to {high} in {count} steps; expected 0 to 2 in 2 to {MAX_IMAGES}")
    return [round(low + (high - low) * index / (count - 1), 3) for index in range(count)]
