"""The one place that loads a base with subject files as a pipeline and generates images from prompts and seeds."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.record import injection_of
from vf_training import methods
from vf_training.device import best_device, serving_dtype
from vf_training.runs import RunFolder

from . import hub
from .base_models import BaseModel, load, resolve
from .families import Preset, family_of


@dataclass(frozen=True)
class GenerationSettings:
    """How images are generated: denoising steps, guidance, side in pixels, and how many at once.

    Rounding depends on the size of the batch, so images of another `batch_size` may differ by one grey level.
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
    """The subject file of a run folder, the file itself, or that of a subject on the hub, fetched unless it is kept.

    Raises:
        VectorFitError: nothing is there, and the hub has no such subject or cannot be reached.
    """
    path = Path(path)
    if path.is_dir():
        return RunFolder(path).vectors
    return hub.fetch_subject(str(path)) if hub.is_hub_id(path) else path


def folder_of(path: str | Path) -> Path:
    """Where things made of a subject go: its run folder, its file's folder, or for one on the hub ./NAME."""
    path = Path(path)
    if hub.is_hub_id(path):
        return Path(path.name.partition("@")[0])
    return path if path.is_dir() else path.parent


def base_of(path: str | Path, location: str | None = None) -> BaseModel:
    """The base model that a subject was trained on: a run folder, a subject file or a hub id.

    `location` is where the base is now, if it moved.

    Raises:
        VectorFitError: the file is not a subject file, or its base does not exist.
    """
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
    """Replaces the subjects of a pipeline by these, each with its strength. Without subjects it is the base again.

    Weights are always composed from those of the base, so switching subjects needs no reload and adds no error.

    Raises:
        VectorFitError: a file is damaged, belongs to another base, or needs a pipeline in float32 (`suits`).
    """
    models = adapted_models(pipe)
    files = [(subject_file(path), strength) for path, strength in subjects]
    others = _of_other_methods(files)
    if others and len(files) > 1:
        raise VectorFitError(
            f"{others[0]}: a file of {_method(others[0])} does not mix with other subjects; load it alone"
        )
    dtype = precision(pipe)
    if others and dtype != torch.float32:
        raise VectorFitError(
            f"{others[0]}: a file of {_method(others[0])} needs the base in float32, got {dtype}; load it with "
            "load_pipeline(base, [(file, 1.0)])"
        )
    methods.restore(models)
    try:
        vf.set_subjects(models, [] if others else files)  # composes what is merged
    finally:
        if dtype != torch.float32:
            if _unserved(models):  # the file has another pattern of sigmas, so the layers were made anew
                vf.serve(models, pipe.vae.device, dtype)
        elif not all(layer.merged for layer in injection_of(models).layers.values()):
            vf.merge(models)
    if others:
        vf.remove(models)
        methods.load(models, *files[0])


def subject_bank(pipe: DiffusionPipeline, files: Sequence[str | Path]) -> vf.SubjectBank:
    """A bank of subjects on a pipeline, by the files' own paths as text. It leaves what the pipeline draws alone.

    Raises:
        VectorFitError: a file is damaged, belongs to another base, or is of a method whose changes no row of a batch
            can have of its own.
    """
    models, paths = adapted_models(pipe), {str(path): subject_file(path) for path in files}
    others = _of_other_methods([(path, 1.0) for path in paths.values()])
    if others:
        raise VectorFitError(
            f"{others[0]}: a file of {_method(others[0])} does not go into one batch with other subjects; draw it alone"
        )
    methods.restore(models)
    try:
        return vf.SubjectBank(models, paths)
    finally:
        if precision(pipe) != torch.float32 and _unserved(models):  # some layers were made anew
            vf.serve(models, pipe.vae.device, precision(pipe))


def _of_other_methods(files: Sequence[tuple[Path, float]]) -> list[Path]:
    """The files that hold no vectors, but the change of LoRA, say."""
    return [file for file, _ in files if not methods.holds_vectors(vf.read_metadata(file))]


def _method(file: Path) -> str:
    return methods.name_of_method(vf.read_metadata(file))


def _unserved(models: dict[str, nn.Module]) -> bool:
    return not all(layer.served for layer in injection_of(models).layers.values())


def precision(pipe: DiffusionPipeline) -> torch.dtype:
    """The dtype that a pipeline generates in. (No method adapts the VAE, so its dtype is the pipeline's.)"""
    dtype: torch.dtype = pipe.vae.dtype
    return dtype


def _need_float32(subjects: Sequence[tuple[str | Path, float]]) -> bool:
    return bool(_of_other_methods([(subject_file(path), strength) for path, strength in subjects]))


def _served_in(pipe: DiffusionPipeline, device: str | torch.device) -> torch.dtype:
    return serving_dtype(device, family_of(pipe).half)


def suits(pipe: DiffusionPipeline, subjects: Sequence[tuple[str | Path, float]]) -> bool:
    """Whether a loaded pipeline has the precision that these subjects want; a base alone is content with any."""
    wanted = torch.float32 if _need_float32(subjects) else _served_in(pipe, pipe.vae.device)
    return not subjects or precision(pipe) == wanted


def load_pipeline(
    base: BaseModel,
    subjects: Sequence[tuple[str | Path, float]] = (),
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DiffusionPipeline:
    """A pipeline of `base` with the given subjects, on `device`, by default the accelerator if there is one.

    `dtype` is by default the family's half precision on CUDA, and float32 elsewhere and for files of other methods. In
    half precision the device holds merged weights alone: the base's own weights and the factors stay in main memory, in
    float32.

    Raises:
        VectorFitError: the base cannot be loaded, or as `set_subjects` does.
    """
    device = device or best_device()
    whole = _need_float32(subjects)
    pipe = load(base)
    dtype = dtype or (torch.float32 if whole else _served_in(pipe, device))
    if dtype == torch.float32:
        set_subjects(pipe, subjects)
        return pipe.to(device)
    models = adapted_models(pipe)
    vf.set_subjects(models, [(subject_file(path), strength) for path, strength in subjects])
    if not injection_of(models).layers:
        vf.inject(models)  # so that subjects can follow: half-precision weights are not those they were trained on
    vf.serve(models, device, dtype)
    pipe.vae.enable_slicing()
    return pipe.to(device, dtype)


@dataclass(frozen=True)
class GeneratedImage:
    """An image, and whether the safety checker of the base blanked it."""

    image: Image.Image
    blanked: bool


def batches(positions: Sequence[int], size: int) -> list[list[int | None]]:
    """Batches of image indices: image i is at `positions[i]` modulo `size`, in the first batch where that is free."""
    filled: list[list[int | None]] = []
    used: Counter[int] = Counter()  # batches in which a position is taken
    for index, position in enumerate(position % size for position in positions):
        if used[position] == len(filled):
            filled.append([None] * size)
        filled[used[position]][position] = index
        used[position] += 1
    return filled


def generate_images(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    positions: Sequence[int] | None = None,
) -> list[Image.Image]:
    """One image per (prompt, seed). On one machine it is always the same, whatever else is generated with it.

    The noise comes from the CPU, so it is the same on every device. Rounding depends on the size of the batch and on
    the position in it. So every batch is filled up to `settings.batch_size`, and an image has a fixed position: its
    element of `positions` (by default its seed) modulo that size. Consecutive positions need the fewest batches. Other
    processors, devices, precisions and numbers of threads round differently.
    """
    return [generated.image for generated in generate(pipe, prompts, seeds, settings, positions=positions)]


@torch.no_grad()
def generate(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: GenerationSettings,
    after_step: Callable[[dict[int, Tensor]], None] = lambda latents: None,
    positions: Sequence[int] | None = None,
    within: Callable[[list[int]], AbstractContextManager] = lambda images: nullcontext(),
) -> list[GeneratedImage]:
    """As `generate_images`, and says which images the safety checker blanked.

    `after_step` is called after every denoising step of every batch, with the latents of the batch's images by their
    index. An exception in it ends the generation. Each batch is drawn in the context that `within` gives for the
    indices of its images.

    Raises:
        VectorFitError: a negative prompt for a base that takes none.
    """
    family = family_of(pipe)
    if settings.negative_prompt and not family.takes_negative_prompt:
        raise VectorFitError(
            f"negative prompt: a {family.name} takes none, got {settings.negative_prompt!r}; leave it out"
        )
    generated: dict[int, GeneratedImage] = {}
    for batch in batches(seeds if positions is None else positions, settings.batch_size):
        first = next(index for index in batch if index is not None)
        filled = [first if index is None else index for index in batch]

        def on_step_end(
            _pipe: object, _step: int, _time: int, tensors: dict, batch: Sequence[int | None] = batch
        ) -> dict:
            latents = zip(batch, tensors["latents"], strict=True)
            after_step({index: one for index, one in latents if index is not None})
            return tensors

        with within(filled):
            output = pipe(
                [prompts[index] for index in filled],
                # Without one the pipeline takes what its base was trained with: an empty prompt, or zeros.
                negative_prompt=[settings.negative_prompt] * len(filled) if settings.negative_prompt else None,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                generator=[torch.Generator().manual_seed(seeds[index]) for index in filled],
                height=settings.resolution,
                width=settings.resolution,
                callback_on_step_end=on_step_end,
                **family.call_arguments(pipe),
            )
        blanked = getattr(output, "nsfw_content_detected", None) or [False] * len(filled)
        generated |= {
            index: GeneratedImage(image, bool(blank))
            for index, image, blank in zip(batch, output.images, blanked, strict=True)
            if index is not None
        }
    return [generated[index] for index in range(len(prompts))]


@contextmanager
def scheduled(pipe: DiffusionPipeline, name: str | None = None) -> Iterator[None]:
    """Within the context the pipeline has the diffusers scheduler of this name, or a new one of its own kind.

    It is made from the configuration of the pipeline's own, and new every time: some keep state between calls.
    """
    own = pipe.scheduler
    scheduler_class = getattr(diffusers, name) if name else type(own)
    pipe.scheduler = scheduler_class.from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own


@contextmanager
def quickly(pipe: DiffusionPipeline, preset: Preset) -> Iterator[None]:
    """Within the context the pipeline draws with the scheduler for class images and sample grids, if there is one."""
    with scheduled(pipe, preset.quick[0]) if preset.quick else nullcontext():
        yield


@contextmanager
def previewing(pipe: DiffusionPipeline) -> Iterator[None]:
    """Within the context the models of the pipeline are merged and in eval mode. Afterwards they are as before."""
    models = adapted_models(pipe)
    modes = {name: model.training for name, model in models.items()}
    try:
        for model in models.values():
            model.eval()
        with vf.merged(models):
            yield
    finally:
        for name, model in models.items():
            model.train(modes[name])
