"""The names that other tools give the layers of text encoders, UNets and transformers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from vectorfit.export import Naming, Place

_BLOCK = re.compile(r"(?<=blocks\.)\d+")


def published_name(path: str) -> str:
    """A layer's path as published files have it: in text encoders with the `text_model.` level that exports lack."""
    model, _, rest = path.partition(".")
    has_level = model.startswith("text_encoder") and not rest.startswith("text_projection")
    return f"{model}.text_model.{rest}" if has_level else path


def kohya_name(path: str, prefixes: Mapping[str, str]) -> str:
    """A layer's name in files of kohya's scripts, which A1111 and ComfyUI read; a prefix for each of the models."""
    model, _, rest = published_name(path).partition(".")
    return prefixes[model] + rest.replace(".", "_")


def joined(name: str, *paths: str) -> dict[str, Place]:
    """The places of layers of equal size that a tool has as one."""
    return {path: Place(name, first, of=len(paths)) for first, path in enumerate(paths)}


def kohya_place(path: str, prefixes: Mapping[str, str], original: Mapping[str, str | Place]) -> str | Place:
    """A layer's place in files of kohya's scripts, which train transformers as their publishers wrote them.

    `original` has the publisher's name or place of every layer of the transformer, with # for the number of the block
    where all blocks are alike.
    """
    model, _, rest = path.partition(".")
    if model != "transformer":
        return kohya_name(path, prefixes)
    number = _BLOCK.search(rest)
    there = original.get(rest) or original[_BLOCK.sub("#", rest)]
    place = there if isinstance(there, Place) else Place(there)
    name = prefixes[model] + place.name.replace("#", number[0] if number else "").replace(".", "_")
    return name if isinstance(there, str) else replace(place, name=name)


def kohya_naming(layer: Callable[[str], str | Place]) -> Naming:
    """The form of kohya's LoRA files, with these names of the layers."""
    return Naming(layer, "lora_down.weight", "lora_up.weight", bias="", alpha="alpha")
