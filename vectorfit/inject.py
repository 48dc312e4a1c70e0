"""Puts VectorFit layers into a model and takes them out again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .config import VectorFitConfig
from .errors import VectorFitError
from .heads import give_back, heads, originals, set_values, train_whole
from .layers import layer_for
from .plan import Models, Plan, named_models, named_modules, plan, saved_modules, vectorfit_layers

Holders = dict[int, list[tuple[nn.Module, str]]]


def holders(models: Models) -> Holders:
    """By a module's id, every module that holds it and under which attribute: a shared layer has several."""
    found: Holders = {}
    for parent in {id(module): module for _, module in named_modules(models)}.values():
        for name, child in parent._modules.items():
            found.setdefault(id(child), []).append((parent, name))
    return found


def _trainable_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def inject(models: Models, config: VectorFitConfig | None = None) -> Plan:
    """Replaces the planned layers in place and freezes everything else but `modules_to_save`.

    Returns the plan. Nothing is changed unless every layer can be factorised.

    Raises:
        VectorFitError: as `plan` does; a layer that cannot be factorised, with its path; a model already injected.
    """
    config = config or VectorFitConfig()
    present = next(vectorfit_layers(models), None)
    if present is not None:
        raise VectorFitError(f"{present[0]} is a VectorFit layer already; call vectorfit.remove(model) first")
    planned, replacements = plan(models, config), []
    modules, held_by = dict(named_modules(models)), holders(models)
    for layer in planned.layers:
        module = modules[layer.path]
        kind = layer_for(module)
        assert kind is not None  # the plan has made sure
        try:
            if id(module) not in held_by:
                raise VectorFitError("the model itself is the layer: it needs a parent module to be replaced in")
            replacements.append((module, kind(module, tuple(layer.vectors), config.pattern, config.pattern_width)))
        except VectorFitError as error:
            raise VectorFitError(f"{layer.path}: {error}") from error
    for model in named_models(models).values():
        # Kept on the module so that `remove` restores what was trainable before.
        model.__dict__["_vectorfit_required_grad"] = _trainable_names(model)
        model.__dict__["_vectorfit_config"] = config
        model.requires_grad_(False)
    for module, replacement in replacements:
        replace(held_by, module, replacement)
    for whole in saved_modules(models, config.modules_to_save).values():
        train_whole(whole)
    return planned


def injected_config(models: Models) -> VectorFitConfig:
    """The configuration that the models were injected with."""
    found = (model.__dict__.get("_vectorfit_config") for model in named_models(models).values())
    return next((config for config in found if config is not None), VectorFitConfig())


def vector_parameters(models: Models) -> dict[str, nn.Parameter]:
    """The trainable vectors, named `<module path>.sigma` and `.bias`: the one definition of "trainable"."""
    return {
        f"{path}.{kind}": vector for path, layer in vectorfit_layers(models) for kind, vector in layer.vectors.items()
    }


def merge(models: Models) -> None:
    """Writes the effective weights into the base's parameters, so that a forward costs what the base's does.

    Raises:
        VectorFitError: a delta is NaN or infinite; no weight is touched.
    """
    broken = [name for name, vector in vector_parameters(models).items() if not torch.isfinite(vector).all()]
    if broken:
        raise VectorFitError(f"{broken[0]} holds NaN or infinity ({len(broken)} such vectors); nothing was merged")
    for _, layer in vectorfit_layers(models):
        layer.merge()


def unmerge(models: Models) -> None:
    """Undoes `merge`, bit for bit."""
    for _, layer in vectorfit_layers(models):
        layer.unmerge()


def remove(models: Models) -> None:
    """Puts the original modules back, those trained whole with their original values, and leaves no trace."""
    for whole in heads(models).values():
        give_back(whole)
    held_by = holders(models)
    for _, layer in list(vectorfit_layers(models)):
        layer.unmerge()
        layer.base.train(layer.training)
        replace(held_by, layer, layer.base)
    forget(models)


def replace(held_by: Holders, layer: nn.Module, replacement: nn.Module) -> None:
    """Puts a module in another's place, wherever that stands; `held_by` is from before the first is replaced."""
    for parent, name in held_by[id(layer)]:
        setattr(parent, name, replacement)


def forget(models: Models) -> None:
    """What was trainable before the injection is so again."""
    for model in named_models(models).values():
        model.__dict__.pop("_vectorfit_config", None)
        required = model.__dict__.pop("_vectorfit_required_grad", None)
        if required is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in required)


def set_strength(models: Models, strength: float) -> None:
    """Scales all deltas: 0 is the base, 1 the trained subject. A merged model is merged anew."""
    for _, layer in vectorfit_layers(models):
        layer.strength = float(strength)
        if layer.merged:
            layer.remerge()


@contextmanager
def disabled(models: Models) -> Iterator[None]:
    """Within the context the models are exactly the base, merged or not."""
    before = [(layer, layer.enabled) for _, layer in vectorfit_layers(models)]
    trained = {
        module: {n: p.detach().clone() for n, p in module.named_parameters()} for module in heads(models).values()
    }
    try:
        for layer, _ in before:
            layer.enabled = False
        for module in trained:
            set_values(module, originals(module))
        yield
    finally:
        for layer, enabled in before:
            layer.enabled = enabled
        for module, values in trained.items():
            set_values(module, values)
