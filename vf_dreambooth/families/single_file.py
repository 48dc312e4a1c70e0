"""What a checkpoint in a single file is, by the names and shapes of its weights."""

import json
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from torch import Tensor

from vectorfit import VectorFitError


def checkpoint_type(path: Path) -> str:
    """What diffusers calls a checkpoint of this kind, such as xl_base. No weights are read.

    Raises:
        VectorFitError: the file is damaged.
    """
    try:
        weights = _of_safetensors(path) if path.suffix.lower() == ".safetensors" else _of_pickle(path)
    except Exception as error:  # a zip, a pickle or a header of JSON, each with its own errors
        raise VectorFitError(f"{path} cannot be loaded ({error}); expected a checkpoint, fetch it again") from error
    return infer_diffusers_model_type(weights)


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _of_pickle(path: Path) -> dict[str, Tensor]:
    contents = torch.load(path, map_location="meta", weights_only=True)
    weights: dict[str, Tensor] = contents.get("state_dict", contents)
    return weights
