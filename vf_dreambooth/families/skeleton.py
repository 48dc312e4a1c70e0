"""A base's models without their weights, from its configuration alone: a few kilobytes to fetch."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from torch import nn

from vf_dreambooth import network

from .family import INDEX

CONFIGURATIONS = (INDEX, "*/config.json")


def skeleton(location: str, revision: str | None = None) -> Any:
    """The models of a base on the meta device, as attributes under the names of the pipeline's parts.

    `location` is a folder in diffusers' layout or a hub id.

    Raises:
        Exception: whatever a hub client, or a configuration that is missing or damaged, raises.
    """
    folder = Path(location)
    if not folder.is_dir():
        kept_only = not network.answers(constants.ENDPOINT)
        fetched = snapshot_download(
            location, revision=revision, allow_patterns=list(CONFIGURATIONS), local_files_only=kept_only
        )
        folder = Path(fetched)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with torch.device("meta"):
        models = {part: _model(folder / part, *entry) for part, entry in index.items() if isinstance(entry, list)}
    return SimpleNamespace(**{part: model for part, model in models.items() if model is not None})


def _model(folder: Path, library: str | None, name: str | None) -> nn.Module | None:
    """The model of a class in a library, as folder/config.json has it; None for a tokenizer, a scheduler or nothing."""
    if library not in ("diffusers", "transformers"):
        return None
    cls = getattr(importlib.import_module(library), str(name))
    if not issubclass(cls, nn.Module):
        return None
    model: nn.Module
    if library == "diffusers":
        model = cls.from_config(cls.load_config(folder))
    else:
        model = cls(cls.config_class.from_pretrained(folder))
    return model
