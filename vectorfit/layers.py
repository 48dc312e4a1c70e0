"""The layers: linear maps and convolutions whose singular values and biases are trained.

Legend: `N` tokens, `out` x `in` the weight as a matrix, `r = min(out, in)`.
U [out, r], sigma [r], Vh [r, in], d_sigma [n], d_bias [out]. M [r, r] has d_sigma for entries: on its diagonal, where
n is r, or at the `rows` and `columns` of a pattern (`patterns`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .factor_cache import factors
from .patterns import entries, entries_of, num_entries, product_work, summed, times

Place = tuple[Tensor | None, Tensor | None]  # the rows and columns of M's entries
DIAGONAL: Place = (None, None)


def compose(weight: Tensor, d_sigma: Tensor, U: Tensor, Vh: Tensor, place: Place = DIAGONAL) -> Tensor:
    """Eq. 2: W = W0 + U diag(d_sigma) Vh, in the precision of W0 or U, the higher. Shapes as in the module's legend."""
    change = times(U, d_sigma.to(U.dtype), *place) @ Vh
    return weight.to(torch.promote_types(weight.dtype, U.dtype)) + change


def factored_is_cheaper(tokens: int, out: int, columns: int, more: int = 0) -> bool:
    """Whether `U (sigma * (Vh x))` takes fewer multiply-adds, forward and backward, than composing W.

    Factored: 2 N r (out + in). Dense: 3 N out in for the products with W, and 2 r out in to compose W and to take
    diag(U^T G Vh^T). `more` is what a row's product with an M of more than the diagonal takes (`product_work`): N times
    for every product, in the dense way out times to compose and in times for the gradient.
    """
    r = min(out, columns)
    factored = 2 * tokens * r * (out + columns) + 3 * tokens * more
    dense = 3 * tokens * out * columns + 2 * r * out * columns + more * (out + columns)
    return factored < dense


def _sigma_gradient(G: Tensor, U: Tensor, Vh: Tensor, place: Place) -> Tensor:
    """dL/d_sigma = diag(U^T G V) for G = dL/dW [out, in]: Eq. 11 corrected. Of other patterns, their entries of it."""
    return entries((U.T @ G.to(U.dtype)).T, Vh.T, *place)


class _Dense(torch.autograd.Function):
    """y = x W^T + b with W composed; backward makes dx, d_sigma, db and nothing for W0, U, Vh."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        d_sigma: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        U: Tensor,
        Vh: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> Tensor:
        composed = compose(weight, d_sigma, U, Vh, (rows, columns)).to(weight.dtype).to(x.dtype)
        ctx.save_for_backward(x, composed, U, Vh, rows, columns)
        return F.linear(x, composed, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, composed, U, Vh, rows, columns = ctx.saved_tensors
        dx = grad @ composed if ctx.needs_input_grad[0] else None
        flat, d_sigma, d_bias = grad.flatten(0, -2), None, None
        if ctx.needs_input_grad[1]:
            G = flat.T @ x.flatten(0, -2)  # [out, in]
            d_sigma = _sigma_gradient(G, U, Vh, (rows, columns))
        if ctx.needs_input_grad[2]:
            d_bias = summed(flat)
        return dx, d_sigma, d_bias, None, None, None, None, None


class _Factored(torch.autograd.Function):
    """y = U ((sigma + d_sigma) * (Vh x)); keeps Vh x, which is r wide, and not x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        d_sigma: Tensor,
        sigma: Tensor,
        U: Tensor,
        Vh: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> Tensor:
        U, Vh = U.to(x.dtype), Vh.to(x.dtype)
        # On the diagonal sigma and its delta add up to one scale; elsewhere M comes on top.
        plain = rows is None
        scale, M = ((sigma + d_sigma if plain else sigma).to(x.dtype), None if plain else d_sigma.to(x.dtype))
        projected = x @ Vh.T  # [N, r]
        ctx.save_for_backward(projected, scale, M, U, Vh, rows, columns)
        scaled = projected * scale
        return (scaled if M is None else scaled + times(projected, M, columns, rows)) @ U.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        projected, scale, M, U, Vh, rows, columns = ctx.saved_tensors
        back = grad @ U  # [N, r]
        dx = d_sigma = None
        if ctx.needs_input_grad[0]:
            scaled = back * scale
            dx = (scaled if M is None else scaled + times(back, M, rows, columns)) @ Vh
        if ctx.needs_input_grad[1]:
            d_sigma = entries(back.flatten(0, -2), projected.flatten(0, -2), rows, columns)
        return dx, d_sigma, None, None, None, None, None


class _Compose(torch.autograd.Function):
    """W = W0 + U diag(d_sigma) Vh, whose gradient is taken for d_sigma alone."""

    @staticmethod
    def forward(
        ctx: Any,
        d_sigma: Tensor,
        weight: Tensor,
        U: Tensor,
        Vh: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(U, Vh, rows, columns)
        return compose(weight, d_sigma, U, Vh, (rows, columns)).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        U, Vh, rows, columns = ctx.saved_tensors
        return _sigma_gradient(grads[0], U, Vh, (rows, columns)), None, None, None, None, None


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
    rows: Tensor | None
    columns: Tensor | None
    base: Any
    d_sigma: nn.Parameter | None
    d_bias: nn.Parameter | None

    def __init__(
        self, base: nn.Module, kinds: tuple[str, ...] = ("sigma", "bias"), pattern: str = "plain", width: int = 1
    ) -> None:
        super().__init__()
        holder: Any = base
        self.weight, self.bias = holder.weight, holder.bias
        self._prepare(base)
        self.factorise(kinds, pattern, width)
        sizes = self.vector_sizes(kinds, pattern, width)
        start = {kind: nn.Parameter(torch.zeros(size, device=self.weight.device)) for kind, size in sizes.items()}
        self.d_sigma, self.d_bias = start.get("sigma"), start.get("bias")
        self.enabled = True

    def _prepare(self, base: nn.Module) -> None:
        """The state that every layer has, before it has factors and vectors."""
        self.strength = 1.0
        self.sigma_dropout = 0.0  # probability; see regularizers.set_sigma_dropout
        self.pristine: tuple[Tensor, Tensor | None] | None = None  # the base's weight and bias while merged
        # Not a submodule: state dicts keep the base's key names. `remove` puts it back.
        self.__dict__["base"] = base
        self.train(base.training)

    def factorise(self, kinds: tuple[str, ...], pattern: str, width: int) -> None:
        """Registers the factors and where M has entries. Without sigma there is nothing to factorise for."""
        found = factors(self.matrix(self.weight)) if "sigma" in kinds else (None, None, None)
        U, _, Vh = found
        place = DIAGONAL if U is None or Vh is None else entries_of(pattern, width, U, Vh)
        for name, value in zip(("U", "sigma", "Vh", "rows", "columns"), (*found, *place), strict=True):
            self.register_buffer(name, value, persistent=False)

    def vector_sizes(self, kinds: tuple[str, ...], pattern: str, width: int) -> dict[str, int]:
        """The lengths of the vectors of these kinds, as far as the base has them."""
        out, columns = self.matrix(self.weight).shape if "sigma" in kinds else (len(self.matrix(self.weight)), 0)
        sizes = {"sigma": num_entries(pattern, min(out, columns), width) if columns else 0}
        sizes["bias"] = out if self.bias is not None else 0
        return {kind: sizes[kind] for kind in kinds if sizes[kind]}

    def __getattr__(self, name: str) -> Any:
        """What models read of a layer besides its weight (features, channels, stride) is the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # While being unpickled there is no base; FSDP takes parameters away and must find them gone.
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
        """What the base does to x, with this weight and bias in place of its own."""
        raise NotImplementedError

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, bias: Tensor | None) -> Tensor:
        """What the base does to x with the effective weight, differentiable in `d_sigma` and `bias`."""
        raise NotImplementedError

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The trainable vectors, "sigma" and "bias", as far as the variant trains them and the base has them."""
        found = {"sigma": self.d_sigma, "bias": self.d_bias}
        return {kind: vector for kind, vector in found.items() if vector is not None}

    @property
    def merged(self) -> bool:
        return self.pristine is not None

    def _all_vectors(self) -> list[nn.Parameter]:
        return list(self.vectors.values())

    def _apply(self, fn: Any, recurse: bool = True) -> "VectorFitLayer":
        """Moves with the model but keeps deltas and factors in float32: `.half()` must not round them."""
        factors = {name: getattr(self, name) for name in ("U", "sigma", "Vh") if getattr(self, name) is not None}
        vectors = [(vector, vector.data) for vector in self._all_vectors()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        for name, value in factors.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, value.to(getattr(self, name).device))
        for vector, value in vectors:
            if vector.dtype != torch.float32:
                vector.data = value.to(vector.device)
        if self.pristine is not None:
            weight, bias = self.pristine
            self.pristine = (fn(weight), None if bias is None else fn(bias))
        return self

    def factored_is_cheaper(self, tokens: int) -> bool:
        """Which way to train a layer with a sigma at this number of tokens; see the function of that name."""
        out, r, columns = len(self.U), len(self.Vh), self.Vh.shape[1]
        return factored_is_cheaper(tokens, out, columns, 0 if self.rows is None else product_work(r, len(self.rows)))

    @property
    def place(self) -> Place:
        """Where the entries of d_sigma stand in M."""
        return self.rows, self.columns

    def change(self, d_sigma: Tensor) -> Tensor:
        """dW = U M Vh of these entries, as a matrix [out, in]."""
        return times(self.U, d_sigma, *self.place) @ self.Vh

    def _delta_bias(self) -> Tensor | None:
        return None if self.d_bias is None else self.strength * self.d_bias

    def composed(self) -> tuple[Tensor, Tensor | None]:
        """The effective weight, in the base's shape, and bias [out], both in the base's dtype. Eq. 2 and 3."""
        weight, bias = self.pristine or (self.weight, self.bias)
        composed = weight
        if self.d_sigma is not None:
            d_sigma = self.strength * self.d_sigma
            matrix = compose(self.matrix(weight), d_sigma, self.U, self.Vh, self.place).to(weight.dtype)
            composed = self.unmatrix(matrix, weight.shape)
        delta = self._delta_bias()
        return composed, bias if bias is None or delta is None else (bias.float() + delta).to(bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return self.transform(x, *(self.pristine or (self.weight, self.bias)))
        if self.merged:
            return self.transform(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return self.transform(x, *self.composed())
        delta = self._delta_bias()
        bias = self.bias if delta is None or self.bias is None else self.bias.float() + delta
        d_sigma = None if self.d_sigma is None else self.strength * self.d_sigma
        if d_sigma is not None and self.training and self.sigma_dropout:
            d_sigma = F.dropout(self.sigma + d_sigma, self.sigma_dropout) - self.sigma
        return self.trainable_forward(x, d_sigma, bias)

    @torch.no_grad()
    def merge(self) -> None:
        """Writes the effective weight and bias into the base's parameters; merged again, it is composed anew."""
        # Deltas of zero are the base to the last bit, and composing a large weight takes a while.
        moved = any(delta is not None and bool(delta.any()) for delta in (self.d_sigma, self.d_bias))
        weight, bias = self.composed() if moved else self.pristine or (self.weight, self.bias)
        if self.pristine is None:
            self.pristine = (self.weight.detach().clone(), None if self.bias is None else self.bias.detach().clone())
        self.weight.data.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias)

    def remerge(self) -> None:
        """Composes a merged layer anew, after its strength or its vectors have changed."""
        VectorFitLayer.merge(self)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the base's own bits back."""
        if self.pristine is None:
            return
        weight, bias = self.pristine
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

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, bias: Tensor | None) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        tokens = x.numel() // x.shape[-1]
        factored = d_sigma is not None and self.training and self.factored_is_cheaper(tokens)
        with torch.autocast(device, enabled=False):
            if d_sigma is None:
                weight = self.matrix(self.weight).to(x.dtype)
                return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
            if not factored:
                U, Vh = self.U, self.Vh
                if self.training and x.dtype == torch.bfloat16:  # rounds the change alone, and is several times faster
                    U, Vh = U.to(x.dtype), Vh.to(x.dtype)
                dense: Tensor = _Dense.apply(x, d_sigma, bias, self.matrix(self.weight), U, Vh, *self.place)
                return dense
            y: Tensor = _Factored.apply(x, d_sigma, self.sigma, self.U, self.Vh, *self.place)
            return y if bias is None else y + bias.to(y.dtype)


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
        y = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)  # as Conv1D has it, to the last bit
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

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(x.dtype)
        if d_sigma is None:
            return self.transform(x, self.weight, bias)
        stride = self.base.stride[0] * self.base.stride[1]
        positions = x.shape[0] * x.shape[-2] * x.shape[-1] // stride
        if self.training and self.rows is None and self.factored_is_cheaper(positions):
            # Vh as r filters, then U as a 1 x 1 convolution: no gradient of a weight is ever made.
            filters = self.Vh.view(-1, *self.weight.shape[1:]).to(x.dtype)
            projected = self.transform(x, filters, None)
            scale = (self.sigma + d_sigma).to(projected.dtype)
            return F.conv2d(projected * scale[:, None, None], self.U[..., None, None].to(x.dtype), bias)
        weight = _Compose.apply(d_sigma, self.matrix(self.weight), self.U, self.Vh, *self.place)
        return self.transform(x, self.unmatrix(weight, self.weight.shape).to(x.dtype), bias)


class VectorFitNorm(VectorFitLayer):
    """`nn.LayerNorm`, of which the bias alone is trained. Shapes: input and output [..., out]."""

    def transform(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, self.base.normalized_shape, weight, bias, self.base.eps)

    def trainable_forward(self, x: Tensor, d_sigma: Tensor | None, bias: Tensor | None) -> Tensor:
        return self.transform(x, self.weight, None if bias is None else bias.to(self.weight.dtype))


LAYERS: dict[type, type[VectorFitLayer]] = {
    nn.Linear: VectorFitLinear,
    nn.Conv2d: VectorFitConv2d,
    nn.LayerNorm: VectorFitNorm,
}


def layer_for(module: nn.Module) -> type[VectorFitLayer] | None:
    """The VectorFit layer that can take a module's place, or None.

    Exactly the known classes: a subclass may compute something else with its weight.
    """
    kind = type(module)
    if isinstance(module, VectorFitLayer):
        return kind  # type: ignore[return-value]
    if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
        return VectorFitConv1D  # known by name: transformers is not imported here
    return LAYERS.get(kind)
