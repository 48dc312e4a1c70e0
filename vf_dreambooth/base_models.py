"""Which base model is meant, where it lies, and the settings that suit it."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from vectorfit import VectorFitError
from vf_training.device import has_accelerator
from vf_training.methods import STABLE_DIFFUSION, STARTER

SD14 = "CompVis/stable-diffusion-v1-4"
PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
SINGLE_FILES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class Preset:
    """Settings that suit a base: pixels, rate, steps, class images, and how it samples."""

    resolution: int
    learning_rate: float
    max_train_steps: int
    num_class_images: int
    num_inference_steps: int
    guidance_scale: float
    rates_for: str = STABLE_DIFFUSION  # where the registry of methods says the rates of the others
    drift_weight: float = 1e-5  # of the squared norm of all vectors: benchmarks/prior.md, on the starter alone
    batch_size: int = 1  # pictures drawn at once: more are quicker only where one leaves the processor idle


PRESETS = {
    # Rate and class images: Appendix C.5 of the paper, which gives no steps; 1000 are DreamBooth's.
    SD14: Preset(512, 5e-5, 1000, 300, 50, 7.5, batch_size=4),
    # benchmarks/starter_preset.md: likeness has all but stopped growing there, grounds and class are still right.
    "starter": Preset(64, 4e-2, 300, 40, 25, 4.0, STARTER, batch_size=2),
}


@dataclass(frozen=True)
class BaseModel:
    """A base model: `name` goes into files, `location` is a folder or a hub id."""

    name: str
    location: str
    revision: str | None
    preset: Preset
    variant: str | None = (
        None  # of the weight files, such as fp16: other weights, so deltas of one do not fit the other
    )


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


def resolve(name: str, revision: str | None = None, variant: str | None = None) -> BaseModel:
    """The base model that a name means: "auto", "starter", a local diffusers folder or checkpoint file, or a hub id.

    Raises:
        VectorFitError: something local that is not a whole Stable Diffusion, or nothing of that name.
    """
    if name == "auto":
        name = SD14 if has_accelerator() else "starter"
    if name == "starter":
        return BaseModel("starter", str(starter_folder()), None, PRESETS["starter"])
    path = Path(name).expanduser()
    if revision and path.exists():
        raise VectorFitError(f"base model {name}: revision {revision!r} of a local model; revisions are of hub models")
    if path.is_dir():
        _check_folder(name, path)
        # Only the folder's name goes into files: a path would tell of one machine and mean nothing on another.
        return BaseModel(path.resolve().name, str(path), None, PRESETS[SD14], variant)
    if path.is_file():
        if path.suffix.lower() not in SINGLE_FILES:
            raise VectorFitError(
                f"base model {name}: a file, expected a checkpoint ({' or '.join(SINGLE_FILES)}) or a diffusers folder"
            )
        return BaseModel(path.stem, str(path), None, PRESETS[SD14])
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise VectorFitError(
            f"base model {name!r}: no such folder; expected starter, auto, a diffusers folder, a checkpoint file "
            "or a hub id owner/name"
        )
    return BaseModel(name, name, revision, PRESETS.get(name, PRESETS[SD14]), variant)


def _check_folder(name: str, folder: Path) -> None:
    """Looks at a local folder before anything is loaded. Raises VectorFitError for what it lacks."""
    index = folder / "model_index.json"
    if not index.exists():
        raise VectorFitError(
            f"base model {name}: not a diffusers model, it has no model_index.json; expected a saved Stable Diffusion"
        )
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        kind = parts["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise VectorFitError(f"base model {name}: {index} is damaged ({error}); fetch the model again") from error
    if kind not in PIPELINES:
        raise VectorFitError(f"base model {name}: a {kind}, expected a Stable Diffusion 1 or 2 ({PIPELINES[0]})")
    lacking = [part for part in PARTS if not any((folder / part).glob("*"))]
    if lacking:
        raise VectorFitError(
            f"base model {name}: incomplete, {', '.join(lacking)} is missing; expected a complete Stable Diffusion, "
            "fetch it again"
        )


def _read(base: BaseModel) -> StableDiffusionPipeline:
    path = Path(base.location)
    if path.is_file():
        # Beside the file its configuration may lie, in the diffusers layout; otherwise diffusers asks the hub.
        beside = str(path.parent) if (path.parent / "model_index.json").exists() else None
        return StableDiffusionPipeline.from_single_file(str(path), config=beside, torch_dtype=torch.float32)
    return StableDiffusionPipeline.from_pretrained(
        base.location, revision=base.revision, variant=base.variant, dtype=torch.float32
    )


def load(base: BaseModel) -> StableDiffusionPipeline:
    """Loads a base in float32, the canonical weights that deltas belong to; no safety checker is dropped or added.

    Raises:
        VectorFitError: it cannot be had or is not a Stable Diffusion.
    """
    try:
        pipe = _read(base)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # three libraries read a base, and each has errors of its own
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VectorFitError(
            f"base model {base.location!r} cannot be loaded ({first_line}); {_remedy(base)}"
        ) from error
    unfit = _why_unfit(pipe)
    if unfit:
        raise VectorFitError(f"base model {base.location!r}: {unfit}; expected a complete Stable Diffusion 1 or 2")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _why_unfit(pipe: StableDiffusionPipeline) -> str:
    """What a loaded pipeline has that no Stable Diffusion 1 or 2 has, or lacks; nothing where it is one."""
    lacking = [part for part in PARTS if getattr(pipe, part, None) is None]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    channels, latents = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latents:
        return f"its UNet takes {channels} channels where the latents have {latents} (an inpainting model?)"
    if pipe.unet.config.addition_embed_type is not None:
        return f"its UNet wants {pipe.unet.config.addition_embed_type} embeddings too (a Stable Diffusion XL?)"
    if len(pipe.tokenizer) < pipe.text_encoder.config.vocab_size:
        words = pipe.text_encoder.config.vocab_size
        return f"its tokenizer knows {len(pipe.tokenizer)} of the text encoder's {words} tokens (a file is missing?)"
    kind = pipe.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        return f"its scheduler predicts {kind!r}, expected epsilon or v_prediction"
    return ""


def _remedy(base: BaseModel) -> str:
    """What to do when a base cannot be had."""
    starter = "--base_model starter comes along and needs no download"
    if Path(base.location).exists():
        return f"expected a saved Stable Diffusion 1 or 2; {starter}"
    return (
        f"without a network, fetch it where there is one ('hf download {base.location} --local-dir FOLDER'), carry the "
        f"folder over and give --base_model FOLDER, or set HF_HOME to a cache that has it; {starter}"
    )


def fingerprint(*models: nn.Module) -> str:
    """SHA-256 over all weights, for files that depend on the whole base (class images)."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
