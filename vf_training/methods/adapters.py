"""Bottleneck adapters: h + W_up gelu(W_down h) behind the sublayers of every block.

Houlsby et al. (2019) put one behind the attention's output and one behind the feed-forward's, before the residual is
added; Pfeiffer et al. (2021) one behind the feed-forward's alone. W_up starts at 0, so that the start is the base.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vectorfit import VectorFitError
from vectorfit.fingerprint import canonical_name
from vectorfit.modules import Models
from vectorfit.roles import ATTENTION, FEED_FORWARD, role

from .change_file import ChangeFile
from .method import Options, Trained, modules_of

# The layers by which transformers' blocks leave a sublayer.
OUTPUTS = ("output.dense", "out_proj", "o_proj", "fc2", "down_proj", "c_proj", "wo")
_ENDINGS = tuple(f".{name}" for name in OUTPUTS)
_INSIDE = ".adapter."  # in the names of an adapter's parameters: "PATH.adapter.down.weight"


class Adapter(nn.Module):
    """h + W_up gelu(W_down h). Shapes: h [..., size], W_down [width, size], W_up [size, width]."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.normal_(self.down.weight, std=0.01)
        for still in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(still)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.up(nn.functional.gelu(self.down(h.to(self.down.weight.dtype))))
        return h + change.to(h.dtype)


def _call_adapter(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    adapted: Tensor = layer.adapter(output)
    return adapted


def _put_behind(layer: Any, width: int) -> RemovableHandle:
    """Makes the adapter the layer's submodule `adapter`; returns the handle of the hook that calls it."""
    layer.adapter = Adapter(layer.out_features, width).to(layer.weight.device)
    handle: RemovableHandle = layer.register_forward_hook(_call_adapter)
    return handle


def _take_away(adapted: Sequence[tuple[Any, RemovableHandle]]) -> None:
    for layer, handle in adapted:
        handle.remove()
        del layer.adapter


class Adapters(ChangeFile):
    """Adapters behind the sublayers of the roles in `behind`. `size` is their width."""

    def __init__(self, behind: tuple[str, ...]) -> None:
        self.behind = behind

    @torch.no_grad()
    def add_parameters(self, trained: Trained, options: Options) -> None:
        layers = [
            module
            for model in trained.models.values()
            for path, module in list(model.named_modules())
            if isinstance(module, nn.Linear) and role(path) in self.behind and f".{path}".endswith(_ENDINGS)
        ]
        if not layers:
            names = ", ".join(OUTPUTS)
            raise VectorFitError(f"{trained.method.name}: no layer named {names} in a block to put an adapter behind")
        for layer in layers:
            _put_behind(layer, trained.size)

    def contents(self, trained: Trained) -> dict[str, Tensor]:
        parameters = self.parameters(trained)
        return {name: value.detach().float().cpu() for name, value in parameters.items() if _INSIDE in name}

    @torch.no_grad()
    def apply(self, models: Models, tensors: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
        modules = {canonical_name(path): module for path, module in modules_of(models).items()}
        layers = {}
        for path in sorted({name.partition(_INSIDE)[0] for name in tensors}):
            layer: Any = modules.get(path)
            width = len(tensors[f"{path}{_INSIDE}down.weight"])
            if not isinstance(layer, nn.Linear) or tensors[f"{path}{_INSIDE}up.bias"].shape != (layer.out_features,):
                raise VectorFitError(f"the model has no layer {path} that the adapter fits; load it on its base model")
            layers[path] = layer, width
        adapted: list[tuple[Any, RemovableHandle]] = []
        for path, (layer, width) in layers.items():
            adapted.append((layer, _put_behind(layer, width)))
            for name, parameter in layer.adapter.named_parameters():
                scale = strength if name.startswith("up.") else 1.0
                parameter.copy_(scale * tensors[f"{path}{_INSIDE}{name}"])
            layer.adapter.requires_grad_(False)
        return partial(_take_away, adapted)


HOULSBY, PFEIFFER = Adapters((ATTENTION, FEED_FORWARD)), Adapters((FEED_FORWARD,))
