"""The families of base models. `FAMILIES` is the registry: a new family is a file here and an entry in it."""

import json
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import try_to_load_from_cache

from vectorfit import VectorFitError
from vf_dreambooth.presets import SD14, TEXT_ENCODERS, Preset

from .family import INDEX, Denoiser, Family, NoiseSchedule
from .flux import Flux
from .single_file import checkpoint_type
from .stable_diffusion import StableDiffusion
from .stable_diffusion_3 import StableDiffusion3
from .stable_diffusion_xl import SDXL, StableDiffusionXL
from .z_image import ZImage

__all__ = [
    "FAMILIES",
    "SD14",
    "SDXL",
    "TEXT_ENCODERS",
    "Denoiser",
    "Family",
    "NoiseSchedule",
    "Preset",
    "family_at",
    "family_of",
    "family_of_class",
    "family_of_folder",
    "family_with_preset",
]

FAMILIES: tuple[Family, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    ZImage(),
)


def family_of_class(class_name: str) -> Family:
    """The family that a pipeline's class belongs to, by the class's name.

    Raises:
        VectorFitError: no family has this class.
    """
    for family in FAMILIES:
        if class_name in family.pipeline_classes:
            return family
    expected = " or ".join(family.name for family in FAMILIES)
    raise VectorFitError(f"a {class_name}, expected a {expected}")


def family_of(pipe: DiffusionPipeline) -> Family:
    """The family of a loaded pipeline, by its class.

    Raises:
        VectorFitError: no family has this class.
    """
    return family_of_class(type(pipe).__name__)


def family_of_folder(folder: Path) -> Family:
    """The family of a saved pipeline, by its model_index.json.

    Raises:
        VectorFitError: the file is missing or damaged, or no family has the class that it names.
    """
    index = folder / INDEX
    if not index.exists():
        raise VectorFitError(f"not a diffusers model, it has no {INDEX}; expected a saved {FAMILIES[0].name}")
    try:
        class_name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise VectorFitError(f"{index} is damaged ({error}); fetch the model again") from error
    return family_of_class(class_name)


def family_of_file(path: Path) -> Family:
    """The family of a checkpoint in a single file.

    Raises:
        VectorFitError: the file is damaged, or of no known family.
    """
    kind = checkpoint_type(path)
    for family in FAMILIES:
        if kind in family.single_file_types:
            return family
    expected = " or ".join(family.name for family in FAMILIES)
    raise VectorFitError(f"a checkpoint of {kind}, expected a {expected}")


def family_at(location: str, revision: str | None = None) -> Family:
    """The family of what lies at a location: a folder, a single file or a hub id.

    Without a model_index.json beside it, a single file is known by the names of its weights.

    Raises:
        VectorFitError: no family has the class of the model.
        OSError: the hub cannot be reached, or has no such model.
    """
    path = Path(location)
    if path.is_dir():
        return family_of_folder(path)
    if path.is_file():
        return family_of_folder(path.parent) if (path.parent / INDEX).exists() else family_of_file(path)
    kept = try_to_load_from_cache(location, INDEX, revision=revision)
    if isinstance(kept, str):  # what it is does not change, and without a network the hub's library asks for long
        return family_of_folder(Path(kept).parent)
    return family_of_class(DiffusionPipeline.load_config(location, revision=revision)["_class_name"])


def family_with_preset(name: str) -> Family | None:
    """The family that has a preset for the base of this name, None where none has."""
    return next((family for family in FAMILIES if name in family.presets), None)
