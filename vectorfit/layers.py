"""The layers: linear maps, convolutions and LayerNorms whose singular values and biases are trained.

Legend as in `layer`, which has what they share.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import quantised
from .factor_storage import FLOAT32, SQUARE
from .layer import VectorFitLayer
from .products import (
    DENSE_CALLS,
    LOW_PRECISION,
    ComposedWeight,
    DenseProduct,
    FactoredProduct,
    SplitProduct,
    SquareProduct,
    WeightCalls,
)

__all__ = [
    "LAYERS",
    "VectorFitConv1D",
    "VectorFitConv2d",
    "VectorFitLayer",
    "VectorFitLinear",
    "VectorFitNorm",
    "VectorFitQuantised",
    "layer_for",
]


class VectorFitLinear(VectorFitLayer):
    """`nn.Linear`. Shapes: input [..., in], output [..., out]."""

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, d_bias: Tensor | None) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        tokens = x.numel() // x.shape[-1]
        factored = d_sigma is not None and self.training and self.factored_is_cheaper(tokens)
        split = d_sigma is not None and self._is_split()
        with torch.autocast(device, enabled=False):
            if d_sigma is None:
                weight, bias = self.matrix(self.weight).to(x.dtype), self._biased(d_bias)
                return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
            weight, pattern = self.matrix(self.weight), (self.pattern, self.positions)
            y: Tensor
            if self.storage == SQUARE:
                y = self._square(x, d_sigma, d_bias)
            elif split:
                y = SplitProduct.apply(x, d_sigma, weight, self.U, self.Vh, *pattern, d_bias, self.bias)
            elif factored:
                y = FactoredProduct.apply(x, d_sigma, self.sigma, self.U, self.Vh, *pattern, d_bias, self.bias)
            else:
                # In bfloat16 only the change is rounded, and it is several times faster.
                dtype = torch.bfloat16 if self.training and x.dtype == torch.bfloat16 else None
                y = DenseProduct.apply(x, d_sigma, d_bias, weight, self.U, self.Vh, *pattern, dtype, self.bias)
            return y

    def _square(self, x: Tensor, d_sigma: Tensor, d_bias: Tensor | None) -> Tensor:
        """The product with W0 called and the change beside it. Shapes: x [..., in], d_sigma [n]; result [..., out]."""
        square, rest = self.square_and_rest()
        tensors = (x, d_sigma, self.sigma, square, rest, self.called_weight)
        options = (self.positions, self.calls, self.is_wide, self.bias)
        y: Tensor = SquareProduct.apply(*tensors, self.pattern, d_bias, *options)
        return y

    @property
    def calls(self) -> WeightCalls:
        """How the weight is called."""
        return DENSE_CALLS

    @property
    def called_weight(self) -> Tensor:
        """The weight as `calls` takes it."""
        return self.matrix(self.weight)

    def _is_split(self) -> bool:
        if self.d_sigma is None or (self.storage == FLOAT32 and self.weight.dtype not in LOW_PRECISION):
            return False
        return self.training or bool(self.d_sigma.any())  # without a change, the base bit for bit


class VectorFitConv1D(VectorFitLinear):
    """transformers' `Conv1D`, a linear layer that keeps its weight transposed, [in, out]."""

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        return weight.T

    @staticmethod
    def unmatrix(matrix: Tensor, shape: torch.Size) -> Tensor:
        return matrix.T

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is not None  # Conv1D always has one
        y = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)  # exactly Conv1D's own computation
        return y.view(*x.shape[:-1], -1)


class VectorFitQuantised(VectorFitLinear):
    """A linear layer whose weight torchao or bitsandbytes has quantised: it is called, never written to.

    Its factors are those of the dequantised weight, so that the change is exact on the very base that is trained.
    """

    can_merge = False

    def _prepare(self, base: nn.Module) -> None:
        quantised.keep_readable(base)
        super()._prepare(base)

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        return quantised.dequantised(weight)

    @classmethod
    def shape_of(cls, module: nn.Module) -> tuple[int, ...]:
        layer: Any = module
        return layer.out_features, layer.in_features

    @property
    def calls(self) -> WeightCalls:
        return quantised.QuantisedCalls(self.base)

    @property
    def called_weight(self) -> Tensor:
        return self.weight

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if quantised.is_packed(weight):  # the layer's own, in whatever dtype it was asked for
            return quantised.call(self.base, self.weight, x, bias)
        return F.linear(x, weight, bias)

    def effective(self, d_sigma: Tensor | None, delta: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The base's own weight where nothing is added to it, otherwise the changed one, which is not quantised."""
        weight, bias = super().effective(None, delta)
        if d_sigma is None or not bool(d_sigma.any()):
            return weight, bias
        return self.matrix(self.weight).float() + self.change(d_sigma.float()), bias

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, d_bias: Tensor | None) -> Tensor:
        if d_sigma is None:
            return self.transform(x, self.weight, self._biased(d_bias))
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            return self._square(x, d_sigma, d_bias)

    def _is_split(self) -> bool:
        return self.d_sigma is not None and (self.training or bool(self.d_sigma.any()))


class VectorFitConv2d(VectorFitLayer):
    """`nn.Conv2d` of one group, its weight unfolded to [out, in * kh * kw].

    Shapes: input [n, in, h, w], output [n, out, h', w'].
    """

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        return weight.flatten(1)

    @staticmethod
    def unmatrix(matrix: Tensor, shape: torch.Size) -> Tensor:
        return matrix.view(shape)

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self.base._conv_forward(x, weight, bias)
        return result

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, d_bias: Tensor | None) -> Tensor:
        biased = self._biased(d_bias)
        bias = None if biased is None else biased.to(x.dtype)
        if d_sigma is None:
            return self.transform(x, self.weight, bias)
        stride = self.base.stride[0] * self.base.stride[1]
        positions = x.shape[0] * x.shape[-2] * x.shape[-1] // stride
        if self.training and self.pattern.is_diagonal and self.factored_is_cheaper(positions):
            # Vh as r filters, then U as a 1 x 1 convolution: no gradient of a weight is ever made.
            filters = self.Vh.view(-1, *self.weight.shape[1:]).to(x.dtype)
            projected = self.transform(x, filters, None)
            scaled = (projected * (self.sigma + d_sigma)[:, None, None]).to(x.dtype)
            return F.conv2d(scaled, self.U[..., None, None].to(x.dtype), bias)
        matrix = self.matrix(self.weight)
        weight = ComposedWeight.apply(d_sigma, matrix, self.U, self.Vh, self.pattern, self.positions)
        return self.transform(x, self.unmatrix(weight, self.weight.shape).to(x.dtype), bias)


class VectorFitNorm(VectorFitLayer):
    """`nn.LayerNorm`, of which the bias alone is trained. Shapes: input and output [..., out]."""

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, self.base.normalized_shape, weight, bias, self.base.eps)

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, d_bias: Tensor | None) -> Tensor:
        bias = self._biased(d_bias)
        return self.transform(x, self.weight, None if bias is None else bias.to(self.weight.dtype))


LAYERS: dict[type, type[VectorFitLayer]] = {
    nn.Linear: VectorFitLinear,
    nn.Conv2d: VectorFitConv2d,
    nn.LayerNorm: VectorFitNorm,
}


def layer_for(module: nn.Module) -> type[VectorFitLayer] | None:
    """The VectorFit layer that can replace a module, or None.

    Exactly the known classes: a subclass may compute something else with its weight.
    """
    kind = type(module)
    if isinstance(module, VectorFitLayer):
        return kind  # type: ignore[return-value]
    if quantised.is_quantised(module):
        return None if quantised.why_not(module) else VectorFitQuantised
    if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
        return VectorFitConv1D  # known by name: transformers is not imported here
    return LAYERS.get(kind)
