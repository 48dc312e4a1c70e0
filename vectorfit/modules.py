"""The modules of one or several models, by their paths."""

from collections.abc import Iterator, Mapping

from torch import nn

from .layers import VectorFitLayer

Models = nn.Module | Mapping[str, nn.Module]


def named_models(models: Models) -> dict[str, nn.Module]:
    """The models by name, where one module alone has the name ""."""
    return {"": models} if isinstance(models, nn.Module) else dict(models)


def join(*parts: str) -> str:
    """A dotted path of the non-empty parts."""
    return ".".join(part for part in parts if part)


def named_modules(models: Models) -> Iterator[tuple[str, nn.Module]]:
    """The modules of one or several models with their paths, each once, in the models' order.

    Modules inside an adapted layer, such as the base layer that PEFT wraps, are left out.
    """
    for prefix, model in named_models(models).items():
        adapted = None
        for path, module in model.named_modules():
            if adapted is not None and path.startswith(f"{adapted}."):
                continue
            adapted = path if isinstance(module, VectorFitLayer) else None
            yield join(prefix, path), module


def vectorfit_layers(models: Models) -> Iterator[tuple[str, VectorFitLayer]]:
    """The adapted layers of one or several models with their paths, in the models' order."""
    for path, module in named_modules(models):
        if isinstance(module, VectorFitLayer):
            yield path, module


def is_named(path: str, name: str) -> bool:
    """Whether a path is the name or ends with it as its last parts: `"attn1.to_q"` names `"block.attn1.to_q"`."""
    return path == name or path.endswith("." + name)


def weight_owners(models: Models) -> dict[int, list[str]]:
    """The paths of the modules that hold each parameter, by the parameter's identity."""
    owners: dict[int, list[str]] = {}
    for path, module in named_modules(models):
        for parameter in module.parameters(recurse=isinstance(module, VectorFitLayer)):
            owners.setdefault(id(parameter), []).append(path)
    return owners
