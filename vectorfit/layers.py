"""The layers: linear maps, convolutions and LayerNorms whose singular values and biases are trained.

Legend: `out` x `in` the weight as a matrix, `r = min(out, in)`, `n` trained entries of M (`pattern`).
U [out, r], sigma [r], Vh [r, in], d_sigma [n], d_bias [out], `positions` [2, n] or None. `products` has the equations.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .factor_cache import factors
from .pattern import DIAGONAL, Pattern
from .products import ComposedWeight, DenseProduct, FactoredProduct, SplitProduct, compose, factored_is_cheaper

LOW_PRECISION = (torch.bfloat16, torch.float16)


class VectorFitLayer(nn.Module):
    """A layer with frozen `U`, `Vh` and trainable `d_sigma`, `d_bias`; its kinds differ in how they apply a weight.

    Deltas are float32 and zero at the start; with zero deltas the layer in eval mode is the base layer bit for bit.
    The base's parameters stay this layer's `weight` and `bias`, under their own names.

    Source: Eq. 1-3 of VectorFit (arXiv 2503.19530).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    U: Tensor  # None, as are sigma and Vh, where no sigma is trained
    sigma: Tensor
    Vh: Tensor
    positions: Tensor | None
    pattern: Pattern
    base: Any
    d_sigma: nn.Parameter | None
    d_bias: nn.Parameter | None

    def __init__(
        self, base: nn.Module, kinds: tuple[str, ...] = ("sigma", "bias"), pattern: Pattern = DIAGONAL
    ) -> None:
        super().__init__()
        holder: Any = base
        self.weight, self.bias = holder.weight, holder.bias
        self._prepare(base)
        self.factorise(kinds, pattern)
        sizes = self.vector_sizes(kinds, pattern)
        start = {kind: nn.Parameter(torch.zeros(size, device=self.weight.device)) for kind, size in sizes.items()}
        self.d_sigma, self.d_bias = start.get("sigma"), start.get("bias")
        self.enabled = True

    def _prepare(self, base: nn.Module) -> None:
        """The state that every layer has, before it has factors and vectors."""
        self.strength = 1.0
        self.sigma_dropout = 0.0  # probability; see regularizers.set_sigma_dropout
        self.pristine: tuple[Tensor, Tensor | None] | None = None  # the base's weight and bias while merged
        self.base_mark = object()  # stands for the base's values; another one where they have changed dtype
        self.served = False  # merged, and only `weight` and `bias` move with the model; see `serve`
        self.rows: Any = None  # the vectors of a batch's rows, in place of the layer's own; see `rows.seated`
        # Not a submodule, so that state dicts keep the base's names. `remove` puts it back into the model.
        self.__dict__["base"] = base
        self.train(base.training)

    def factorise(self, kinds: tuple[str, ...], pattern: Pattern) -> None:
        """Registers the factors and the positions of the pattern's entries; all are None where no sigma is trained."""
        U = sigma = Vh = positions = None
        if "sigma" in kinds:
            U, sigma, Vh = factors(self.matrix(self.weight))
            positions = pattern.positions(U, Vh)
        self.pattern = pattern
        for name, value in {"U": U, "sigma": sigma, "Vh": Vh, "positions": positions}.items():
            self.register_buffer(name, value, persistent=False)

    def vector_sizes(self, kinds: tuple[str, ...], pattern: Pattern) -> dict[str, int]:
        """The lengths of the vectors of these kinds; a base without a bias has none of that kind."""
        matrix = self.matrix(self.weight)
        sizes = {"sigma": 0, "bias": len(matrix) if self.bias is not None else 0}
        if "sigma" in kinds:
            sizes["sigma"] = pattern.size(min(matrix.shape))
        return {kind: sizes[kind] for kind in kinds if sizes[kind]}

    def __getattr__(self, name: str) -> Any:
        """Gives the base's attributes, such as `in_features` and `stride`, to models that read them of a layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # While a layer is unpickled it has no base. FSDP removes parameters and expects them to be gone.
            if "base" not in self.__dict__ or name in VectorFitLayer.__annotations__:
                raise
            return getattr(self.__dict__["base"], name)

    @staticmethod
    def matrix(weight: Tensor) -> Tensor:
        """A weight as a matrix [out, in]."""
        return weight

    @staticmethod
    def unmatrix(matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undoes `matrix`: a matrix [out, in] in the shape that the base keeps its weight in."""
        return matrix

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the base does to x, with this weight and bias in place of its own.

        Shapes: weight as the base keeps it, bias [out]; x and the result as each kind of layer says.
        """
        raise NotImplementedError

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, d_bias: Tensor | None) -> Tensor:
        """What the base does to x with the effective weight and bias, differentiable in `x`, `d_sigma` and `d_bias`.

        Shapes: x and the result as in `transform`; d_sigma [n] and d_bias [out], times the strength, or None where
        none is trained.
        """
        raise NotImplementedError

    def _biased(self, d_bias: Tensor | None) -> Tensor | None:
        """The effective bias [out], differentiable in `d_bias`."""
        return self.bias if self.bias is None or d_bias is None else self.bias.float() + d_bias

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The trainable vectors by kind: "sigma" and "bias", where the variant trains them and the base has them."""
        by_kind = {"sigma": self.d_sigma, "bias": self.d_bias}
        return {kind: vector for kind, vector in by_kind.items() if vector is not None}

    @property
    def merged(self) -> bool:
        return self.pristine is not None

    def _all_vectors(self) -> list[nn.Parameter]:
        return list(self.vectors.values())

    def _apply(self, fn: Any, recurse: bool = True) -> "VectorFitLayer":
        """Moves deltas and factors with the model, but keeps them in float32: `.half()` must not round them."""
        if self.served:
            for parameter in (self.weight, self.bias):
                if parameter is not None:
                    parameter.data = fn(parameter.data)
            return self
        factors = {name: getattr(self, name) for name in ("U", "sigma", "Vh") if getattr(self, name) is not None}
        vectors, dtype = [(vector, vector.data) for vector in self._all_vectors()], self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.weight.dtype != dtype:
            self.base_mark = object()
        for name, value in factors.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, value.to(getattr(self, name).device))
        for vector, value in vectors:
            if vector.dtype != torch.float32:
                vector.data = value.to(vector.device)
        if self.pristine is not None:
            weight, bias = self.pristine
            home = "cpu" if self.weight.is_cuda else self.weight.device
            self.pristine = (fn(weight).to(home), None if bias is None else fn(bias).to(home))
        return self

    def factored_is_cheaper(self, tokens: int) -> bool:
        """Which way to train a layer with a sigma at this number of tokens; see the function of that name."""
        out, r, columns = len(self.U), len(self.Vh), self.Vh.shape[1]
        return factored_is_cheaper(tokens, out, columns, self.pattern.work(r))

    def change(self, d_sigma: Tensor) -> Tensor:
        """dW = U M Vh of these entries. Shapes: d_sigma [n]; result [out, in]."""
        return self.pattern.times(self.U, d_sigma, self.positions) @ self.Vh

    def _scaled(self, vector: Tensor | None) -> Tensor | None:
        """A delta times the strength, but for the one of training: hundreds of products take 3 % of a small step."""
        return vector if vector is None or self.strength == 1 else self.strength * vector

    def composed(self) -> tuple[Tensor, Tensor | None]:
        """The effective weight, in the base's shape, and bias [out], both in the base's dtype. Eq. 2 and 3."""
        return self.effective(None if self.d_sigma is None else self.strength * self.d_sigma, self._scaled(self.d_bias))

    def effective(self, d_sigma: Tensor | None, delta: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `composed`, of these deltas: of sigma [n] and of the bias [out], or None where none is added."""
        weight, bias = self.pristine or (self.weight, self.bias)
        composed, device = weight, self.weight.device  # the rest may be in main memory: see `serve` and `merge`
        if d_sigma is not None:
            d_sigma, U, Vh = d_sigma.to(device), self.U.to(device), self.Vh.to(device)
            positions = None if self.positions is None else self.positions.to(device)
            matrix = compose(self.matrix(weight.to(device)), d_sigma, U, Vh, self.pattern, positions)
            composed = self.unmatrix(matrix.to(weight.dtype), weight.shape)
        if bias is not None and delta is not None:
            bias = (bias.to(device).float() + delta.to(device)).to(bias.dtype)
        return composed, bias

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is not None and self.enabled:
            result: Tensor = self.rows(self, x)
            return result
        if not self.enabled and not self.served:
            weight, bias = self.pristine or (self.weight, self.bias)
            return self.transform(x, weight.to(x.device), None if bias is None else bias.to(x.device))
        if self.merged:
            return self.transform(x, self.weight, self.bias)
        if not torch.is_grad_enabled() and not self._is_split():
            return self.transform(x, *self.composed())
        d_bias, d_sigma = self._scaled(self.d_bias), self._scaled(self.d_sigma)
        if d_sigma is not None and self.training and self.sigma_dropout:
            d_sigma = F.dropout(self.sigma + d_sigma, self.sigma_dropout) - self.sigma
        return self.trainable_forward(x, d_sigma, d_bias)

    def _is_split(self) -> bool:
        """Whether the change is applied beside the weight, not in it, where its dtype would lose small changes."""
        return False

    @torch.no_grad()
    def merge(self) -> None:
        """Writes the effective weight and bias into the base's parameters. A merged layer is composed anew."""
        # Composing a large weight takes a while, and with deltas of zero it would change no bit.
        moved = any(delta is not None and bool(delta.any()) for delta in (self.d_sigma, self.d_bias))
        weight, bias = self.composed() if moved and self.enabled else self.pristine or (self.weight, self.bias)
        self._keep_pristine()
        self.weight.data.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias)

    def _keep_pristine(self) -> None:
        """Keeps the base's own weight and bias, those of a GPU in main memory: it may not hold them twice."""
        if self.pristine is None:
            kept = [None if p is None else p.detach() for p in (self.weight, self.bias)]
            weight, bias = (None if p is None else p.cpu() if p.is_cuda else p.clone() for p in kept)
            assert weight is not None
            self.pristine = weight, bias

    def serve(self) -> None:
        """Readies the layer for inference alone: what it composes from stays in main memory, in float32.

        From now on `weight` and `bias`, merged, are all that moves with the model or changes its dtype.
        """
        if not self.served:
            self.to("cpu")
            self._keep_pristine()
            self.served = True

    def remerge(self) -> None:
        """Composes a merged layer anew, after its strength or its vectors have changed."""
        VectorFitLayer.merge(self)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the base's own bits back."""
        if self.pristine is None:
            return
        weight, bias = self.pristine
        if self.served:
            device, self.served = self.weight.device, False
            self.weight.data = weight  # its own dtype too
            if self.bias is not None and bias is not None:
                self.bias.data = bias
            self.pristine = None
            self.to(device)
            return
        self.weight.data.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias)
        self.pristine = None

    def extra_repr(self) -> str:
        return f"{self.base.extra_repr()}, vectors={', '.join(self.vectors)}"


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
            if split:
                y = SplitProduct.apply(x, d_sigma, weight, self.U, self.Vh, *pattern, d_bias, self.bias)
            elif factored:
                y = FactoredProduct.apply(x, d_sigma, self.sigma, self.U, self.Vh, *pattern, d_bias, self.bias)
            else:
                # In bfloat16 only the change is rounded, and it is several times faster.
                dtype = torch.bfloat16 if self.training and x.dtype == torch.bfloat16 else None
                y = DenseProduct.apply(x, d_sigma, d_bias, weight, self.U, self.Vh, *pattern, dtype, self.bias)
            return y

    def _is_split(self) -> bool:
        if self.d_sigma is None or self.weight.dtype not in LOW_PRECISION:
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
    if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
        return VectorFitConv1D  # known by name: transformers is not imported here
    return LAYERS.get(kind)
