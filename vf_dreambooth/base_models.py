"""Resolves a base model's name to its location and family, and loads it. Presets are in families/."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from vectorfit import VectorFitError
from vf_training.device import has_accelerator

from .families import FAMILIES, SD14, Preset, family_at, family_of, family_of_folder, family_with_preset
from .families.stable_diffusion import StableDiffusion

SINGLE_FILES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class BaseModel:
    """A base model: `name` goes into files, `location` is a folder or a hub id."""

    name: str
    location: str
    revision: str | None
    preset: Preset
    variant: str | None = None  # of the weight files, such as fp16: other weights, so their deltas do not fit these


def starter_folder() -> Path:
    """The starter's diffusers folder: beside this package in a checkout, or in the installed `vf_starter`.

    Raises:
        VectorFitError: neither has it.
    """
    candidates = [Path(__file__).resolve().parents[1] / "starter"]
    spec = importlib.util.find_spec("vf_starter")
    if spec is not None and spec.submodule_search_locations:
        candidates += [Path(folder) for folder in spec.submodule_search_locations]
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
        VectorFitError: a local model is incomplete or of no known family, or the name means nothing.
    """
    if name == "auto":
        name = SD14 if has_accelerator() else "starter"
    if name == "starter":
        return BaseModel("starter", str(starter_folder()), None, StableDiffusion.presets["starter"])
    path = Path(name).expanduser()
    if revision and path.exists():
        raise VectorFitError(f"base model {name}: revision {revision!r} of a local model; revisions are of hub models")
    if path.is_dir():
        # Only the folder's name is written into files: the path means nothing on another machine.
        folder_name = path.resolve().name
        return BaseModel(folder_name, str(path), None, _preset_of_folder(name, path), variant)
    if path.is_file():
        if path.suffix.lower() not in SINGLE_FILES:
            raise VectorFitError(
                f"base model {name}: a file, expected a checkpoint ({' or '.join(SINGLE_FILES)}) or a diffusers folder"
            )
        try:
            family = family_at(str(path))
        except VectorFitError as error:
            raise VectorFitError(f"base model {name}: {error}") from error
        return BaseModel(path.stem, str(path), None, family.preset(family.default_preset))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise VectorFitError(
            f"base model {name!r}: no such folder; expected starter, auto, a diffusers folder, a checkpoint file "
            "or a hub id owner/name"
        )
    return BaseModel(name, name, revision, _preset_on_hub(name, revision), variant)


def _preset_on_hub(name: str, revision: str | None) -> Preset:
    """The preset for a hub id: its own, or its family's by the model_index.json that the hub or the cache has.

    Raises:
        VectorFitError: the model is of no known family.
    """
    family = family_with_preset(name)
    if family is None:
        try:
            family = family_at(name, revision)
        except VectorFitError as error:
            raise VectorFitError(f"base model {name!r}: {error}") from error
        except Exception:  # out of reach: loading, which comes next, fails too and says why
            family = FAMILIES[0]
    return family.preset(name)


def _preset_of_folder(name: str, folder: Path) -> Preset:
    """The preset for a local folder, which is checked before anything is loaded.

    Raises:
        VectorFitError: the folder is not a complete model of a known family.
    """
    try:
        family = family_of_folder(folder)
    except VectorFitError as error:
        raise VectorFitError(f"base model {name}: {error}") from error
    missing = [part for part in family.parts if not any((folder / part).glob("*"))]
    if missing:
        raise VectorFitError(
            f"base model {name}: incomplete, {', '.join(missing)} is missing; expected a complete {family.name}, "
            "fetch it again"
        )
    return family.preset(family.default_preset)


def _read(base: BaseModel) -> DiffusionPipeline:
    family = family_at(base.location, base.revision)
    return family.load(base.location, base.revision, base.variant)


def load(base: BaseModel) -> DiffusionPipeline:
    """Loads a base in float32, the canonical weights that deltas belong to. A safety checker stays as it is.

    Raises:
        VectorFitError: the base cannot be loaded, or is of no known family.
    """
    try:
        pipe = _read(base)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except VectorFitError as error:  # what it is was found in its model_index.json, before its weights were fetched
        raise VectorFitError(f"base model {base.location!r}: {error}") from error
    except Exception as error:  # three libraries read a base, each with its own errors
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VectorFitError(
            f"base model {base.location!r} cannot be loaded ({first_line}); {_remedy(base)}"
        ) from error
    family = family_of(pipe)
    unfit = family.why_unfit(pipe)
    if unfit:
        raise VectorFitError(f"base model {base.location!r}: {unfit}; expected a complete {family.name}")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _remedy(base: BaseModel) -> str:
    """What to do when a base cannot be loaded."""
    starter = "--base_model starter is included and needs no download"
    if Path(base.location).exists():
        return f"expected a complete saved model; {starter}"
    return (
        f"without a network, download it elsewhere ('hf download {base.location} --local-dir FOLDER'), copy the "
        f"folder here and give --base_model FOLDER, or set HF_HOME to a cache that has it; {starter}"
    )


def fingerprint(*models: nn.Module) -> str:
    """SHA-256 over all weights, for files that depend on the whole base (class images)."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
