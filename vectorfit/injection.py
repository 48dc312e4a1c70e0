"""Puts VectorFit layers into a model and takes them out again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from .config import VectorFitConfig
from .errors import VectorFitError
from .factor_storage import FLOAT32
from .layers import VectorFitLayer, layer_for
from .modules import Models, named_models, named_modules
from .planning import Plan, plan, saved_modules
from .record import Head, Injection, Record, drop_records, injection_of, keep_record

Holders = Mapping[int, list[tuple[nn.Module, str]]]


def holders_of_modules(models: Models) -> Holders:
    """By the identity of a module, the modules that hold it and under which attribute: a shared one has several."""
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in {id(module): module for _, module in named_modules(models)}.values():
        for name, child in parent._modules.items():
            holders.setdefault(id(child), []).append((parent, name))
    return holders


def replace(holders: Holders, module: nn.Module, replacement: nn.Module) -> None:
    """Replaces a module in every module that holds it."""
    for holder, name in holders[id(module)]:
        setattr(holder, name, replacement)


def inject(models: Models, config: VectorFitConfig | None = None) -> Plan:
    """Replaces the planned layers in place and freezes everything else but `modules_to_save`.

    Returns the plan. Nothing is changed unless every layer can be factorised.

    Raises:
        VectorFitError: as `plan` does; a layer that cannot be factorised, with its path; a model already injected.
    """
    config = config or VectorFitConfig()
    present = next(iter(injection_of(models).layers), None)
    if present is not None:
        raise VectorFitError(f"{present} is a VectorFit layer already; call vectorfit.remove(model) first")
    planned = plan(models, config)
    holders, modules = holders_of_modules(models), dict(named_modules(models))
    replacements: list[tuple[nn.Module, VectorFitLayer]] = []
    for layer in planned.layers:
        module = modules[layer.path]
        kind = layer_for(module)
        assert kind is not None  # the plan has made sure
        if id(module) not in holders:
            raise VectorFitError(
                f"{layer.path}: the model itself is the layer: it needs a parent module to be replaced in"
            )
        try:
            replacements.append(
                (module, kind(module, tuple(layer.vectors), config.matrix_pattern, layer.factors or FLOAT32))
            )
        except VectorFitError as error:
            raise VectorFitError(f"{layer.path}: {error}") from error
    trainable_before = {
        id(model): frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        for model in named_models(models).values()
    }
    for model in named_models(models).values():
        model.requires_grad_(False)
    for module, replacement in replacements:
        replace(holders, module, replacement)
    heads = tuple(Head.of(module) for module in saved_modules(models, config.modules_to_save).values())
    for model in named_models(models).values():
        own_modules = {id(module) for module in model.modules()}
        own_heads = tuple(head for head in heads if id(head.module) in own_modules)
        keep_record(model, Record(config, trainable_before[id(model)], own_heads))
    return planned


def merge(models: Models) -> None:
    """Writes the effective weights into the base's parameters, so that a forward costs what the base's does.

    The weights keep their dtype. In bfloat16 or float16, changes of less than half a step of a weight are then lost;
    unmerged they are not.

    Raises:
        VectorFitError: a delta is NaN or infinite, or a base is quantised; no weight is touched.
    """
    injection = injection_of(models)
    _require_mergeable(injection)
    for layer in injection.layers.values():
        layer.merge()


def require_writable(layers: Mapping[str, VectorFitLayer]) -> None:
    """Raises VectorFitError where a layer's effective weight cannot be written into its base's."""
    packed = [path for path, layer in layers.items() if not layer.can_merge]
    if packed:
        raise VectorFitError(
            f"{packed[0]}: its weight is quantised, and merging would round the change to a few bits ({len(packed)} "
            "such layers); leave the model unmerged, export the change (vectorfit.export.lora, .difference), or load "
            "the subject on the base in a float dtype and merge there"
        )


def _require_mergeable(injection: Injection) -> None:
    require_writable(injection.layers)
    broken = [name for name, vector in injection.vectors.items() if not torch.isfinite(vector).all()]
    if broken:
        raise VectorFitError(f"{broken[0]} holds NaN or infinity ({len(broken)} such vectors); nothing was merged")


def unmerge(models: Models) -> None:
    """Undoes `merge`, bit for bit."""
    for layer in injection_of(models).layers.values():
        layer.unmerge()


@contextmanager
def merged(models: Models) -> Iterator[None]:
    """Within the context the models are merged; afterwards they are unmerged, unless they were merged before."""
    layers = injection_of(models).layers.values()
    before = any(layer.merged for layer in layers)
    try:
        if not before:
            merge(models)
        yield
    finally:
        if not before:
            unmerge(models)


def serve(models: Models, device: str | torch.device, dtype: torch.dtype) -> None:
    """Merges injected models and moves them to a device in a dtype, for inference alone.

    What the weights are composed from (the base's weights, the factors, the deltas) stays in main memory in float32.
    So the device holds what the plain models take, and subjects can still be switched without an error: each layer
    passes through the device once. `unmerge` ends it; it gives the adapted layers their own dtype back.

    Raises:
        VectorFitError: as `merge` does; the models are as before.
    """
    injection = injection_of(models)
    _require_mergeable(injection)
    for layer in injection.layers.values():
        layer.serve()
    for model in named_models(models).values():
        model.to(device, dtype)
    for layer in injection.layers.values():
        layer.remerge()


def shard_factors(models: Models) -> None:
    """Makes the factors of injected models frozen parameters, so that `fully_shard` splits them too.

    Call it before `fully_shard`. State dicts stay without factors, and so do optimizers that take what is trainable.
    """
    for layer in injection_of(models).layers.values():
        layer.shard_factors()


def remove(models: Models) -> None:
    """Puts the original modules back, those trained whole with their original values, and leaves no trace."""
    injection, holders = injection_of(models), holders_of_modules(models)
    for head in injection.heads.values():
        head.set_values(head.original)
    for layer in injection.layers.values():
        layer.unmerge()
        layer.base.train(layer.training)
        replace(holders, layer, layer.base)
    drop_records(models)


def set_strength(models: Models, strength: float) -> None:
    """Scales all deltas: 0 is the base, 1 the trained subject. A merged model is merged anew."""
    injection_of(models).set_strength(strength)


@contextmanager
def disabled(models: Models) -> Iterator[None]:
    """Within the context the models are exactly the base, merged or not.

    It composes nothing, but for served models: those are given the base's weights at first and their own at the end.
    """
    injection = injection_of(models)
    enabled_before = [(layer, layer.enabled) for layer in injection.layers.values()]
    trained_values = [(head, head.values()) for head in injection.heads.values()]
    try:
        for layer, enabled in enabled_before:
            layer.enabled = False
            if layer.served and enabled:
                layer.remerge()
        for head, _ in trained_values:
            head.set_values(head.original)
        yield
    finally:
        for layer, enabled in enabled_before:
            layer.enabled = enabled
            if layer.served and enabled:
                layer.remerge()
        for head, values in trained_values:
            head.set_values(values)
