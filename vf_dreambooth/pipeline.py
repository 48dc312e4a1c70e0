"""The one loader and the one sampler: base and subject files to a pipeline, prompts and seeds to pictures."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training import methods
from vf_training.device import best_device
from vf_training.runs import RunFolder

from .base_models import BaseModel, load, resolve
from .families import Preset, family_of


@dataclass(frozen=True)
class GenerationSettings:
    """How pictures are sampled: denoising steps, guidance, side in pixels, and how many at once.

    Kernels round otherwise in batches of other sizes, so pictures of another `batch_size` may differ by a level.
    """

    num_inference_steps: int
    guidance_scale: float
    resolution: int
    batch_size: int = 1
    negative_prompt: str = ""

    @classmethod
    def of(cls, preset: Preset, batch_size: int | None = None) -> "GenerationSettings":
        size = preset.batch_size if batch_size is None else batch_size
        return cls(preset.num_inference_steps, preset.guidance_scale, preset.resolution, size)


def adapted_models(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """The models that VectorFit adapts, under the names they have in subject files."""
    return family_of(pipe).adapted_models(pipe)


def subject_file(path: str | Path) -> Path:
    """The subject file meant by a run folder or by the file itself."""
    path = Path(path)
    return RunFolder(path).vectors if path.is_dir() else path


def base_of(path: str | Path, location: str | None = None) -> BaseModel:
    """The base model a run folder or a subject file was trained on; `location` says where else it lies now.

    Raises:
        VectorFitError: the file is not a subject file, or its base is not to be found.
    """
    path = Path(path)
    file = subject_file(path)
    run = RunFolder(file.parent)
    metadata = vf.read_metadata(file)
    recorded = run.read_config().get("base", {}) if run.config.exists() else {}
    return resolve(
        location or recorded.get("location") or metadata["vectorfit.base_model"],
        recorded.get("revision") or metadata.get("vectorfit.base_revision") or None,
        metadata.get("vectorfit.base_variant") or None,
    )


def set_subjects(pipe: DiffusionPipeline, subjects: Sequence[tuple[str | Path, float]]) -> None:
    """Gives a pipeline these subjects, each with its strength, in place of those it had; with none it is the base.

    Weights are composed from the base's own each time, so switching neither reloads nor drifts.

    Raises:
        VectorFitError: a file is damaged or belongs to another base.
    """
    models = adapted_models(pipe)
    files = [(subject_file(path), strength) for path, strength in subjects]
    others = [file for file, _ in files if not methods.holds_vectors(vf.read_metadata(file))]
    if others and len(files) > 1:
        name = methods.name_of_method(vf.read_metadata(others[0]))
        raise VectorFitError(f"{others[0]}: a file of {name} does not mix with other subjects; load it alone")
    methods.restore(models)
    vf.unmerge(models)  # so that the weights are composed once, when all is known
    try:
        vf.set_subjects(models, [] if others else files)
    finally:
        vf.merge(models)
    if others:
        vf.remove(models)
        methods.load(models, *files[0])


def load_pipeline(
    base: BaseModel, subjects: Sequence[tuple[str | Path, float]] = (), *, device: str | torch.device | None = None
) -> DiffusionPipeline:
    """A pipeline of `base` with the given subjects, on `device`: by default the accelerator, where there is one."""
    pipe = load(base)
    set_subjects(pipe, subjects)
    return pipe.to(device or best_device())


@dataclass(frozen=True)
class GeneratedImage:
    """A picture, and whether the base's safety checker has blanked it."""

    image: Image.Image
    blanked: bool


def batches(places: Sequence[int], size: int) -> list[list[int | None]]:
    """Which picture stands where: number i at `places[i]` modulo `size`, in the first batch where that is free."""
    found: list[list[int | None]] = []
    taken: Counter[int] = Counter()
    for index, place in enumerate(place % size for place in places):
        if taken[place] == len(found):
            found.append([None] * size)
        found[taken[place]][place] = index
        taken[place] += 1
    return found


def generate_images(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    places: Sequence[int] | None = None,
) -> list[Image.Image]:
    """One picture per (prompt, seed): on one machine always the same, whatever is drawn beside it and however much.

    The noise is drawn on the CPU, the same on every device. Kernels round by the size of the batch and by the place in
    it, so every batch is filled up to `settings.batch_size`, and `places`, by default the seeds, say where a picture
    stands (modulo that size). Other processors, devices, precisions and numbers of threads round otherwise. Seeds, or
    `places`, that follow each other fill batches best.
    """
    return [drawn.image for drawn in generate(pipe, prompts, seeds, settings, places=places)]


@torch.no_grad()
def generate(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    after_step: Callable[[], None] = lambda: None,
    places: Sequence[int] | None = None,
) -> list[GeneratedImage]:
    """As `generate_images`, and says which images the safety checker blanked.

    `after_step` is called after every denoising step of every batch. An exception in it ends the generation.
    """

    def called(_pipe: object, _step: int, _timestep: int, tensors: dict) -> dict:
        after_step()
        return tensors

    drawn: dict[int, GeneratedImage] = {}
    for batch in batches(seeds if places is None else places, settings.batch_size):
        some = next(index for index in batch if index is not None)
        filled = [some if index is None else index for index in batch]
        found = pipe(
            [prompts[index] for index in filled],
            negative_prompt=[settings.negative_prompt] * len(filled),
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=[torch.Generator().manual_seed(seeds[index]) for index in filled],
            height=settings.resolution,
            width=settings.resolution,
            callback_on_step_end=called,
        )
        blanked = getattr(found, "nsfw_content_detected", None) or [False] * len(filled)
        drawn |= {
            index: GeneratedImage(image, bool(blank))
            for index, image, blank in zip(batch, found.images, blanked, strict=True)
            if index is not None
        }
    return [drawn[index] for index in range(len(prompts))]


@contextmanager
def previewing(pipe: DiffusionPipeline) -> Iterator[None]:
    """Within the context the pipeline's models are merged and in eval mode; afterwards they are as before."""
    models = adapted_models(pipe)
    modes = {name: model.training for name, model in models.items()}
    try:
        for model in models.values():
            model.eval()
        vf.merge(models)
        yield
    finally:
        vf.unmerge(models)
        for name, model in models.items():
            model.train(modes[name])
