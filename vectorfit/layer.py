"""What all adapted layers share: the vectors of a weight, its strength, merging and serving.

Legend: `out` x `in` the weight as a matrix, `r = min(out, in)`, `n` trained entries of M (`pattern`).
U [out, r], sigma [r], Vh [r, in], d_sigma [n], d_bias [out], `positions` [2, n] or None. `products` has the equations.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .factor_storage import FLOAT32, SQUARE
from .factored_weight import FactoredWeight
from .pattern import DIAGONAL, Pattern
from .products import compose, factored_is_cheaper


class VectorFitLayer(FactoredWeight):
    """A layer with frozen `U`, `Vh` and trainable `d_sigma`, `d_bias`; its kinds differ in how they apply a weight.

    Deltas are float32 and zero at the start; with zero deltas the layer in eval mode is the base layer bit for bit.
    The base's parameters stay this layer's `weight` and `bias`, under their own names.

    Source: Eq. 1-3 of VectorFit (arXiv 2503.19530).
    """

    base: Any
    d_sigma: nn.Parameter | None
    d_bias: nn.Parameter | None
    can_merge = True  # whether the effective weight can be written into the base's

    def __init__(
        self,
        base: nn.Module,
        kinds: tuple[str, ...] = ("sigma", "bias"),
        pattern: Pattern = DIAGONAL,
        storage: str = FLOAT32,
    ) -> None:
        super().__init__()
        holder: Any = base
        self.weight, self.bias = holder.weight, holder.bias
        self._prepare(base)
        self.factorise(kinds, pattern, storage)
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

    def vector_sizes(self, kinds: tuple[str, ...], pattern: Pattern) -> dict[str, int]:
        """The lengths of the vectors of these kinds; a base without a bias has none of that kind."""
        shape = self.matrix_shape
        sizes = {"sigma": 0, "bias": shape[0] if self.bias is not None else 0}
        if "sigma" in kinds:
            sizes["sigma"] = pattern.size(min(shape))
        return {kind: sizes[kind] for kind in kinds if sizes[kind]}

    def __getattr__(self, name: str) -> Any:
        """Gives the base's attributes, such as `in_features` and `stride`, to models that read them of a layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == self.__dict__.get("absent_factor"):
                return self.recovered()
            # While a layer is unpickled it has no base. FSDP removes parameters and expects them to be gone.
            if "base" not in self.__dict__ or name in NAMES:
                raise
            return getattr(self.__dict__["base"], name)

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
        """Moves deltas and factors with the model, but keeps their dtypes: `.half()` must not round them."""
        if self.served:
            for parameter in (self.weight, self.bias):
                if parameter is not None:
                    parameter.data = fn(parameter.data)
            return self
        factors = self._kept_dtypes()
        vectors, dtype = [(vector, vector.data) for vector in self._all_vectors()], self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.weight.dtype != dtype:
            self.base_mark = object()
        self._keep_dtypes(factors)
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
        out, columns = self.matrix_shape
        return factored_is_cheaper(tokens, out, columns, self.pattern.work(min(out, columns)))

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
        if d_sigma is not None and (self.storage != SQUARE or bool(d_sigma.any())):
            d_sigma, U, Vh = d_sigma.to(device), self.U.to(device).float(), self.Vh.to(device).float()
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


NAMES = {**FactoredWeight.__annotations__, **VectorFitLayer.__annotations__}
