"""Puts VectorFit layers into a model and takes them out again."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .config import VectorFitConfig
from .errors import VectorFitError
from .layers import VectorFitLinear
from .plan import Models, Plan, named_models, plan, vectorfit_layers


def _parent(models: Models, path: str) -> tuple[nn.Module, str]:
    """The module that holds the layer at `path`, and the layer's attribute name there."""
    for prefix, model in named_models(models).items():
        inner = path.removeprefix(prefix + ".") if prefix else path
        if not prefix or inner != path:
            parent, _, name = inner.rpartition(".")
            if not name:
                break
            return model.get_submodule(parent), name
    raise VectorFitError(f"{path or 'the model itself'}: a layer needs a parent module to be replaced in")


def inject(models: Models, config: VectorFitConfig | None = None) -> Plan:
    """Replaces the planned layers in place and freezes everything else.

    Returns the plan. Nothing is changed unless every layer can be factorised.

    Raises:
        VectorFitError: as `plan` does; a layer that cannot be factorised, with its path; a model already injected.
    """
    config = config or VectorFitConfig()
    present = next(vectorfit_layers(models), None)
    if present is not None:
        raise VectorFitError(f"{present[0]} is a VectorFit layer already; call vectorfit.remove(model) first")
    planned, replacements = plan(models, config), []
    for layer in planned.layers:
        parent, name = _parent(models, layer.path)
        try:
            replacements.append((parent, name, VectorFitLinear(getattr(parent, name), config.kinds)))
        except VectorFitError as error:
            raise VectorFitError(f"{layer.path}: {error}") from error
    for model in named_models(models).values():
        # Kept on the module so that `remove` restores what was trainable before.
        model.__dict__["_vectorfit_required_grad"] = {n for n, p in model.named_parameters() if p.requires_grad}
        model.requires_grad_(False)
    for parent, name, module in replacements:
        setattr(parent, name, module)
    return planned


def vector_parameters(models: Models) -> dict[str, nn.Parameter]:
    """The trainable vectors, named `<module path>.sigma` and `.bias`: the one definition of "trainable"."""
    return {
        f"{path}.{kind}": vector for path, layer in vectorfit_layers(models) for kind, vector in layer.vectors.items()
    }


def merge(models: Models) -> None:
    """Writes the effective weights into the base's parameters, so that a forward costs what the base's does."""
    for _, layer in vectorfit_layers(models):
        layer.merge()


def unmerge(models: Models) -> None:
    """Undoes `merge`, bit for bit."""
    for _, layer in vectorfit_layers(models):
        layer.unmerge()


def remove(models: Models) -> None:
    """Puts the original modules back and leaves no trace."""
    for path, layer in list(vectorfit_layers(models)):
        layer.unmerge()
        parent, name = _parent(models, path)
        layer.base.train(layer.training)
        setattr(parent, name, layer.base)
    for model in named_models(models).values():
        required = model.__dict__.pop("_vectorfit_required_grad", None)
        if required is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in required)


def set_strength(models: Models, strength: float) -> None:
    """Scales all deltas: 0 is the base, 1 the trained subject. A merged model is merged anew."""
    for _, layer in vectorfit_layers(models):
        layer.strength = float(strength)
        if layer.merged:
            layer.merge()


@contextmanager
def disabled(models: Models) -> Iterator[None]:
    """Within the context the models are exactly the base, merged or not."""
    before = [(layer, layer.enabled) for _, layer in vectorfit_layers(models)]
    try:
        for layer, _ in before:
            layer.enabled = False
        yield
    finally:
        for layer, enabled in before:
            layer.enabled = enabled
