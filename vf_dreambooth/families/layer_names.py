"""The names that other tools give the layers of text encoders and UNets."""

from collections.abc import Callable, Mapping

from vectorfit.export import Naming


def published_name(path: str) -> str:
    """A layer's path as published files have it: in text encoders with the `text_model.` level that exports lack."""
    model, _, rest = path.partition(".")
    has_level = model.startswith("text_encoder") and not rest.startswith("text_projection")
    return f"{model}.text_model.{rest}" if has_level else path


def kohya_name(path: str, prefixes: Mapping[str, str]) -> str:
    """A layer's name in files of kohya's scripts, which A1111 and ComfyUI read; a prefix for each of the models."""
    model, _, rest = published_name(path).partition(".")
    return prefixes[model] + rest.replace(".", "_")


def kohya_naming(layer: Callable[[str], str]) -> Naming:
    """The form of kohya's LoRA files, with these names of the layers."""
    return Naming(layer, "lora_down.weight", "lora_up.weight", bias="", alpha="alpha")
