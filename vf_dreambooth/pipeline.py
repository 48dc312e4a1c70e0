"""The one loader and the one sampler: base and subject files to a pipeline, prompts and seeds to pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import nn

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training import methods
from vf_training.device import best_device
from vf_training.runs import RunFolder

from .base_models import BaseModel, Preset, load, resolve


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: denoising steps, guidance, side in pixels, and how many at once."""

    num_inference_steps: int
    guidance_scale: float
    resolution: int
    batch_size: int = 8
    negative_prompt: str = ""

    @classmethod
    def of(cls, preset: Preset, batch_size: int = 8) -> "Sampling":
        return cls(preset.num_inference_steps, preset.guidance_scale, preset.resolution, batch_size)


def adapted_models(pipe: StableDiffusionPipeline) -> dict[str, nn.Module]:
    """The models that VectorFit adapts, under the names they have in subject files."""
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


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


def set_subjects(pipe: StableDiffusionPipeline, subjects: Sequence[tuple[str | Path, float]]) -> None:
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
) -> StableDiffusionPipeline:
    """A pipeline of `base` with the given subjects, on `device`: by default the accelerator, where there is one."""
    pipe = load(base)
    set_subjects(pipe, subjects)
    return pipe.to(device or best_device())


@dataclass(frozen=True)
class Drawn:
    """A picture, and whether the base's safety checker has blanked it."""

    image: Image.Image
    blanked: bool


def sample(
    pipe: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """One picture per (prompt, seed). The noise is drawn on the CPU: the same on every device and in every batch."""
    return [drawn.image for drawn in draw(pipe, prompts, seeds, sampling)]


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    after_step: Callable[[], None] = lambda: None,
) -> list[Drawn]:
    """As `sample`, for who shows what goes on: `after_step` is called after every denoising step of every batch.

    What it raises ends the drawing.
    """

    def called(_pipe: object, _step: int, _timestep: int, tensors: dict) -> dict:
        after_step()
        return tensors

    drawn: list[Drawn] = []
    for start in range(0, len(prompts), sampling.batch_size):
        chunk = list(prompts[start : start + sampling.batch_size])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + len(chunk)]]
        found = pipe(
            chunk,
            negative_prompt=[sampling.negative_prompt] * len(chunk),
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=generators,
            height=sampling.resolution,
            width=sampling.resolution,
            callback_on_step_end=called,
        )
        blanked = found.nsfw_content_detected or [False] * len(chunk)
        drawn += [Drawn(image, bool(blank)) for image, blank in zip(found.images, blanked, strict=True)]
    return drawn


@contextmanager
def previewing(pipe: StableDiffusionPipeline) -> Iterator[None]:
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
