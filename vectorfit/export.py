"""Tensors for export: merged weights, the best LoRA of a rank, the exact difference.

`Naming` is the form of their names.

`U diag(d_sigma) Vh` is already a singular value decomposition of dW, so its r largest |d_sigma| are the best
approximation of rank r that there is (Eckart-Young), and cost nothing to find. For a wider pattern M [r, r] is
decomposed first, which serves as well, since U and Vh are orthonormal.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import VectorFitError
from .fingerprint import canonical_name
from .injection import holders_of_modules, replace, require_writable
from .layers import VectorFitLayer
from .modules import Models, vectorfit_layers
from .record import drop_records
from .svd import in_float64


@dataclass(frozen=True)
class Place:
    """Where a tool keeps a layer that it joins with others, or whose outputs it has in another order.

    The layer's outputs are `shares` of the `of` equal shares of those of the layer `name`, from number `first` on. With
    `swapped` their two halves change places.
    """

    name: str
    first: int = 0
    shares: int = 1
    of: int = 1
    swapped: bool = False

    def rows(self, up: Tensor) -> Tensor:
        """A factor [out, r] as rows of the joined layer [out of `name`, r], with zeros outside this layer's own."""
        if self.swapped:
            up = up.roll(len(up) // 2, 0)
        share = len(up) // self.shares
        return F.pad(up, (0, 0, self.first * share, (self.of - self.first - self.shares) * share))


@dataclass(frozen=True)
class Naming:
    """How a tool names what is exported: `layer` gives a layer's name or place by its path, the rest are names' ends.

    Without an `alpha` the tool takes the factors' product as it is; without a `bias` it has no biases in a LoRA.
    Layers of one place get one LoRA, whose rank is the sum of theirs; a tool that joins layers has no `bias`.
    """

    layer: Callable[[str], str | Place]
    down: str = "lora_A.weight"
    up: str = "lora_B.weight"
    bias: str = "lora_B.bias"
    alpha: str = ""


PEFT = Naming(lambda path: f"base_model.model.{path}")


@dataclass(frozen=True)
class Export:
    """Tensors by the names that another tool expects, and how much of the change they carry.

    `kept` is the share of ||dW|| (Frobenius, over all layers) and `biases` the share of ||db|| that is carried.
    """

    tensors: dict[str, Tensor]
    kept: float
    biases: float


def bake(models: Models) -> None:
    """Makes the effective weights the models' own and puts plain layers back: nothing of VectorFit remains.

    Raises:
        VectorFitError: a base is quantised; the models are as they were.
    """
    require_writable(dict(vectorfit_layers(models)))
    holders = holders_of_modules(models)
    with torch.no_grad():
        for _, layer in list(vectorfit_layers(models)):
            weight, bias = layer.composed()
            weight, bias = weight.clone(), None if bias is None else bias.clone()
            layer.base.weight.data.copy_(weight)
            if bias is not None:
                layer.base.bias.data.copy_(bias)
            layer.base.train(layer.training)
            replace(holders, layer, layer.base)
    drop_records(models)


def _layers(models: Models) -> list[tuple[str, VectorFitLayer]]:
    layers = sorted((canonical_name(path), layer) for path, layer in vectorfit_layers(models))
    if not layers:
        raise VectorFitError("the model has no VectorFit layers to export; load a subject first")
    return layers


def _norm(parts: list[Tensor]) -> float:
    return math.sqrt(sum(float(in_float64(part).square().sum()) for part in parts))


def _low_rank(layer: VectorFitLayer, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of dW: up [out, r] and down [r, in], each with the square root of its singular value."""
    assert layer.d_sigma is not None
    d_sigma = layer.strength * layer.d_sigma.detach().float()
    U, values, Vh = layer.pattern.singular_form(layer.U, d_sigma, layer.Vh, layer.positions)
    largest = values.abs().topk(min(rank, len(values))).indices
    root = values[largest].abs().sqrt()
    up = U[:, largest] * (root * values[largest].sign())
    return up, root[:, None] * Vh[largest]


def _shaped(layer: VectorFitLayer, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as a convolution's LoRA has them: filters, then a 1 x 1."""
    if layer.weight.ndim == 4:
        return up[..., None, None], down.view(-1, *layer.weight.shape[1:])
    return up, down


def _named(naming: Naming, name: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """A layer's factors by their names in a file."""
    tensors = {f"{name}.{naming.down}": down, f"{name}.{naming.up}": up}
    if naming.alpha:  # divided by the rank it is the factor of the product: 1
        tensors[f"{name}.{naming.alpha}"] = torch.tensor(float(len(down)))
    return tensors


def lora(models: Models, rank: int, naming: Naming = PEFT, *, biases: bool = False) -> Export:
    """The best LoRA of a rank, in the names of a tool.

    With `biases` the bias deltas come along exactly, as PEFT's `lora_bias`.

    Shapes: `down` [r, in], `up` [out, r], float32.

    Raises:
        VectorFitError: a rank below 1, a naming that is none or has no biases, nothing to export.
    """
    if rank < 1:
        raise VectorFitError(f"rank: got {rank}, expected at least 1")
    if not isinstance(naming, Naming):
        raise VectorFitError(f"naming: got {naming!r}, expected a vectorfit.export.Naming, such as PEFT")
    if biases and not naming.bias:
        raise VectorFitError("this format has no names for biases; use another naming, or the exact difference")
    tensors: dict[str, Tensor] = {}
    joined: dict[str, list[tuple[Place, Tensor, Tensor]]] = {}
    kept, total, lost = [], [], []
    for path, layer in _layers(models):
        if layer.d_bias is not None:
            lost.append(layer.d_bias.detach())
        if layer.d_sigma is None:
            continue
        up, down = _low_rank(layer, rank)
        kept.append(torch.linalg.vector_norm(up, dim=0) * torch.linalg.vector_norm(down, dim=1))
        total.append(layer.strength * layer.d_sigma.detach())
        place = naming.layer(path)
        if isinstance(place, Place):
            joined.setdefault(place.name, []).append((place, up, down))
            continue
        tensors |= _named(naming, place, *_shaped(layer, up, down))
        if biases:
            delta = layer.d_bias
            tensors[f"{place}.{naming.bias}"] = (
                torch.zeros(len(layer.U)) if delta is None else layer.strength * delta.detach()
            )
    for name, parts in joined.items():
        parts.sort(key=lambda part: part[0].first)
        up = torch.cat([place.rows(up) for place, up, _ in parts], 1)
        tensors |= _named(naming, name, up, torch.cat([down for *_, down in parts]))
    share = _norm(kept) / _norm(total) if total and _norm(total) else 1.0
    carried = 1.0 if biases or not _norm(lost) else 0.0
    return Export(_on_cpu(tensors), share, carried)


def difference(models: Models, layer_name: Callable[[str], str] = str) -> Export:
    """The exact change: `NAME.diff` for weights and `NAME.diff_b` for biases, where `layer_name` gives NAME.

    Without it a layer has its path for a name. ComfyUI reads this file with kohya's names of the layers.

    Shapes: as the base's weights and biases, float32.
    """
    tensors: dict[str, Tensor] = {}
    for path, layer in _layers(models):
        name = layer_name(path)
        if layer.d_sigma is not None:
            change = layer.change(layer.strength * layer.d_sigma.detach())
            tensors[f"{name}.diff"] = layer.unmatrix(change, layer.weight.shape)
        if layer.d_bias is not None:
            tensors[f"{name}.diff_b"] = layer.strength * layer.d_bias.detach()
    return Export(_on_cpu(tensors), 1.0, 1.0)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in sorted(tensors.items())}
