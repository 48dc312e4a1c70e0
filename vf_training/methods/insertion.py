"""Puts a method into models, and writes what it trained there."""

from collections.abc import Mapping

import torch

from vectorfit import VectorFitConfig, VectorFitError, plan
from vectorfit.atomic import PathLike
from vectorfit.modules import Models, named_models

from .method import Options, Trained, layers_inside, modules_of
from .registry import find


def put_in(name: str, models: Models, options: Options | None = None) -> Trained:
    """Puts a method into models, in place: afterwards what it trains, and nothing else, is trainable.

    Raises:
        VectorFitError: an unknown method, a layer that cannot be adapted, or nothing to train.
    """
    method, options, models = find(name), options or Options(), named_models(models)
    size = method.size if options.size is None else options.size
    # What VectorFit would adapt: LoRA takes the same layers, and all methods are counted against the same total.
    excluded = layers_inside(models, options.exclude)
    frame = plan(models, VectorFitConfig(modules_to_save=options.heads, exclude_modules=excluded))
    trained = Trained(method, models, frame, size, options.heads, wrapped=dict(models))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        method.technique.insert(trained, options)
    for path in options.heads:
        modules_of(models)[path].requires_grad_(True)
    if not trained.parameters:
        raise VectorFitError(f"method: {name} trains nothing, for the task brings no head along; take another")
    return trained


def save(
    trained: Trained,
    path: PathLike,
    *,
    base_model: str,
    base_revision: str | None = None,
    metadata: Mapping[str, str] | None = None,
    write: bool = True,
) -> None:
    """Writes what was trained. Equal trainings give equal bytes.

    Of a model that FSDP has split every process calls this; those with `write` False take part and write nothing.

    Raises:
        VectorFitError: something trained is not finite, or the file cannot be written.
    """
    trained.method.technique.save(trained, path, base_model, base_revision, metadata or {}, write=write)
