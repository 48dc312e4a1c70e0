"""Which base model is meant, where it lies, and the settings that suit it."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from vectorfit import VectorFitError

SD14 = "CompVis/stable-diffusion-v1-4"


@dataclass(frozen=True)
class Preset:
    """Settings that suit a base: pixels, rate, steps, class images, and how it samples."""

    resolution: int
    learning_rate: float
    max_train_steps: int
    num_class_images: int
    num_inference_steps: int
    guidance_scale: float


PRESETS = {
    # Rate and class images: Appendix C.5 of the paper, which gives no steps; 1000 are DreamBooth's.
    SD14: Preset(512, 5e-5, 1000, 300, 50, 7.5),
    # A first guess from single trials; benchmarks/starter_preset.py sweeps it.
    "starter": Preset(64, 2e-2, 300, 40, 25, 4.0),
}


@dataclass(frozen=True)
class BaseModel:
    """A base model: `name` goes into files, `location` is a folder or a hub id."""

    name: str
    location: str
    revision: str | None
    preset: Preset


def starter_folder() -> Path:
    """The starter's diffusers folder: beside this package in a checkout, or in the installed `vf_starter`.

    Raises:
        VectorFitError: it is in neither place.
    """
    candidates = [Path(__file__).resolve().parents[1] / "starter"]
    spec = importlib.util.find_spec("vf_starter")
    if spec is not None and spec.submodule_search_locations:
        candidates += [Path(place) for place in spec.submodule_search_locations]
    for folder in candidates:
        if (folder / "weights" / "pipeline" / "model_index.json").exists():
            return folder / "weights" / "pipeline"
    raise VectorFitError(
        f"the starter's weights are missing: looked in {', '.join(map(str, candidates))}; "
        "install the wheel or run from a full checkout"
    )


def has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def resolve(name: str, revision: str | None = None) -> BaseModel:
    """The base model that a name means: "auto", "starter", a local diffusers folder, or a hub id.

    Raises:
        VectorFitError: a folder that is not a diffusers Stable Diffusion.
    """
    if name == "auto":
        name = SD14 if has_accelerator() else "starter"
    if name == "starter":
        return BaseModel("starter", str(starter_folder()), None, PRESETS["starter"])
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "model_index.json").exists():
            raise VectorFitError(
                f"{name}: not a diffusers model, it has no model_index.json; expected a saved Stable Diffusion"
            )
        # Only the folder's name goes into files: a path would tell of one machine and mean nothing on another.
        return BaseModel(folder.resolve().name, str(folder), None, PRESETS[SD14])
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise VectorFitError(
            f"base model {name!r}: no such folder; expected starter, auto, a diffusers folder or a hub id owner/name"
        )
    return BaseModel(name, name, revision, PRESETS.get(name, PRESETS[SD14]))


def load(base: BaseModel, variant: str | None = None) -> StableDiffusionPipeline:
    """Loads a base in float32, the canonical weights that deltas belong to; no safety checker is dropped or added.

    Raises:
        VectorFitError: it cannot be had or is not a Stable Diffusion.
    """
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            base.location, revision=base.revision, variant=variant, dtype=torch.float32
        )
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VectorFitError(
            f"base model {base.location!r} cannot be loaded ({first_line}); "
            "give --base_model a diffusers folder, or --base_model starter, which comes along and needs no download"
        ) from error
    lacking = [
        part for part in ("unet", "text_encoder", "vae", "tokenizer", "scheduler") if getattr(pipe, part, None) is None
    ]
    if lacking:
        raise VectorFitError(
            f"base model {base.location!r} lacks {', '.join(lacking)}; expected a complete Stable Diffusion"
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fingerprint(*models: nn.Module) -> str:
    """SHA-256 over all weights, for files that depend on the whole base (class images)."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
