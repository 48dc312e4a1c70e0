"""Modules trained whole (`modules_to_save`): which they are, and the base's values, kept to come back to."""

from torch import Tensor, nn

from .modules import Models, named_modules

_ORIGINAL = "_vectorfit_original"  # an attribute of the module, outside its state dict


def train_whole(module: nn.Module) -> None:
    """Makes a module trainable as it is and keeps the values it has now."""
    module.requires_grad_(True)
    module.__dict__[_ORIGINAL] = {name: p.detach().clone() for name, p in module.named_parameters()}


def heads(models: Models) -> dict[str, nn.Module]:
    """The modules trained whole, by path."""
    return {path: module for path, module in named_modules(models) if _ORIGINAL in module.__dict__}


def head_parameters(models: Models) -> dict[str, nn.Parameter]:
    """The parameters of the modules trained whole, by path; an optimizer takes them beside `vector_parameters`."""
    return {
        f"{path}.{name}": parameter
        for path, module in heads(models).items()
        for name, parameter in module.named_parameters()
    }


def set_values(module: nn.Module, values: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data.copy_(values[name])


def originals(module: nn.Module) -> dict[str, Tensor]:
    """The base's values of a module trained whole."""
    kept: dict[str, Tensor] = module.__dict__[_ORIGINAL]
    return kept


def keep(module: nn.Module) -> None:
    """The trained values become the module's own."""
    del module.__dict__[_ORIGINAL]


def give_back(module: nn.Module) -> None:
    """The base's values back, and no trace."""
    set_values(module, originals(module))
    keep(module)
