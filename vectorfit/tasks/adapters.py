"""Bottleneck adapters: h + W_up gelu(W_down h) behind the sublayers of every block.

Houlsby et al. (2019) put one behind the attention's output and one behind the feed-forward's, before the residual is
added; Pfeiffer et al. (2021) one behind the feed-forward's alone. W_up starts at 0, so that the start is the base.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vectorfit import VectorFitError
from vectorfit.roles import ATTENTION, FEED_FORWARD, role

# The layers by which transformers' blocks leave a sublayer.
_OUTPUTS = ("output.dense", "out_proj", "o_proj", "fc2", "down_proj", "c_proj", "wo")
BEHIND = {"houlsby": (ATTENTION, FEED_FORWARD), "pfeiffer": (FEED_FORWARD,)}


class Adapter(nn.Module):
    """h + W_up gelu(W_down h), with `width` numbers in between; `h` is [..., size]."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, width), nn.Linear(width, size)
        nn.init.normal_(self.down.weight, std=0.01)
        for still in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(still)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.up(nn.functional.gelu(self.down(h.to(self.down.weight.dtype))))
        return h + change.to(h.dtype)


def _apply(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    adapted: Tensor = layer.adapter(output)
    return adapted


def insert(model: nn.Module, kind: str, width: int) -> dict[str, Adapter]:
    """Puts adapters behind a model's sublayers, in place; returns them by the path of the layer they are behind.

    Raises:
        VectorFitError: no sublayer's output is known by its name.
    """
    found: dict[str, Adapter] = {}
    with torch.no_grad():
        for path, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear) and role(path) in BEHIND[kind] and f".{path}".endswith(_ENDINGS):
                layer.adapter = Adapter(layer.out_features, width).to(layer.weight.device)
                layer.register_forward_hook(_apply)
                found[path] = layer.adapter
    if not found:
        raise VectorFitError(f"{kind}: found no layer named {', '.join(_OUTPUTS)} in a block to put an adapter behind")
    return found


_ENDINGS = tuple(f".{name}" for name in _OUTPUTS)
