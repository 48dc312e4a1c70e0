"""The layer: a linear map whose singular values and bias are trained.

Legend: `N` tokens, `out` x `in` the weight, `r = min(out, in)`.
U [out, r], sigma [r], Vh [r, in], d_sigma [r], d_bias [out].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .svd import decompose


def compose(weight: Tensor, d_sigma: Tensor, U: Tensor, Vh: Tensor) -> Tensor:
    """Eq. 2: W = W0 + U diag(d_sigma) Vh, in the precision of U. Shapes as in the module's legend."""
    return weight.to(U.dtype) + (U * d_sigma) @ Vh


def factored_is_cheaper(tokens: int, rows: int, columns: int) -> bool:
    """Whether `U (sigma * (Vh x))` takes fewer multiply-adds, forward and backward, than composing W.

    Factored: 2 N r (out + in). Dense: 3 N out in for the products with W, and 2 r out in to compose W and to take
    diag(U^T G Vh^T).
    """
    r = min(rows, columns)
    return 2 * tokens * r * (rows + columns) < 3 * tokens * rows * columns + 2 * r * rows * columns


class _Dense(torch.autograd.Function):
    """y = x W^T + b with W composed; backward makes dx, d_sigma, db and nothing for W0, U, Vh."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, d_sigma: Tensor, bias: Tensor | None, weight: Tensor, U: Tensor, Vh: Tensor
    ) -> Tensor:
        composed = compose(weight, d_sigma, U, Vh).to(weight.dtype).to(x.dtype)
        ctx.save_for_backward(x, composed, U, Vh)
        return F.linear(x, composed, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, composed, U, Vh = ctx.saved_tensors
        dx = grad @ composed if ctx.needs_input_grad[0] else None
        rows, d_sigma, d_bias = grad.flatten(0, -2), None, None
        if ctx.needs_input_grad[1]:
            G = rows.T @ x.flatten(0, -2)  # [out, in]
            d_sigma = ((U.T @ G.to(U.dtype)) * Vh).sum(1)  # diag(U^T G V), Eq. 11 corrected
        if ctx.needs_input_grad[2]:
            d_bias = rows.sum(0, dtype=U.dtype)
        return dx, d_sigma, d_bias, None, None, None


class _Factored(torch.autograd.Function):
    """y = U ((sigma + d_sigma) * (Vh x)); keeps Vh x, which is r wide, and not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d_sigma: Tensor, sigma: Tensor, U: Tensor, Vh: Tensor) -> Tensor:
        U, Vh = U.to(x.dtype), Vh.to(x.dtype)
        scale = (sigma + d_sigma).to(x.dtype)
        projected = x @ Vh.T  # [N, r]
        ctx.save_for_backward(projected, scale, U, Vh)
        return (projected * scale) @ U.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        projected, scale, U, Vh = ctx.saved_tensors
        back = grad @ U  # [N, r]
        dx = (back * scale) @ Vh if ctx.needs_input_grad[0] else None
        d_sigma = None
        if ctx.needs_input_grad[1]:
            accumulate = torch.promote_types(back.dtype, torch.float32)
            d_sigma = (back * projected).flatten(0, -2).sum(0, dtype=accumulate)
        return dx, d_sigma, None, None, None


class VectorFitLinear(nn.Module):
    """A linear layer with frozen `U`, `Vh` and trainable `d_sigma`, `d_bias`.

    Deltas are float32 and zero at the start; with zero deltas the layer in eval mode is the base layer bit for bit.
    The base's parameters stay this layer's `weight` and `bias`, under their own names.

    Shapes: input [..., in], output [..., out].

    Source: Eq. 1-3 of VectorFit (arXiv 2503.19530).
    """

    U: Tensor
    sigma: Tensor
    Vh: Tensor
    base: nn.Linear

    def __init__(self, base: nn.Linear, kinds: tuple[str, ...] = ("sigma", "bias")) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        # Not a submodule: state dicts keep the base's key names. `remove` puts it back.
        self.__dict__["base"] = base
        U, sigma, Vh = decompose(base.weight)
        for name, value in (("U", U), ("sigma", sigma), ("Vh", Vh)):
            self.register_buffer(name, value, persistent=False)
        device = base.weight.device
        self.d_sigma = nn.Parameter(torch.zeros(len(sigma), device=device))
        trains_bias = "bias" in kinds and base.bias is not None
        self.d_bias = nn.Parameter(torch.zeros(base.out_features, device=device)) if trains_bias else None
        self.strength = 1.0
        self.enabled = True
        self.pristine: tuple[Tensor, Tensor | None] | None = None  # the base's weight and bias while merged
        self.train(base.training)

    @property
    def vectors(self) -> dict[str, nn.Parameter]:
        """The trainable vectors: "sigma", and "bias" where the base has one and the variant trains it."""
        return {"sigma": self.d_sigma} | ({"bias": self.d_bias} if self.d_bias is not None else {})

    @property
    def merged(self) -> bool:
        return self.pristine is not None

    def _apply(self, fn: Any, recurse: bool = True) -> "VectorFitLinear":
        """Moves with the model but keeps deltas and factors in float32: `.half()` must not round them."""
        factors = {name: getattr(self, name) for name in ("U", "sigma", "Vh")}
        vectors = [(vector, vector.data) for vector in self.vectors.values()]
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

    def _delta_bias(self) -> Tensor | None:
        return None if self.d_bias is None else self.strength * self.d_bias

    def composed(self) -> tuple[Tensor, Tensor | None]:
        """The effective weight [out, in] and bias [out] in the base's dtype. Eq. 2 and 3."""
        weight, bias = self.pristine or (self.weight, self.bias)
        composed = compose(weight, self.strength * self.d_sigma, self.U, self.Vh).to(weight.dtype)
        delta = self._delta_bias()
        return composed, bias if bias is None or delta is None else (bias.float() + delta).to(bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return F.linear(x, *(self.pristine or (self.weight, self.bias)))
        if self.merged:
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return F.linear(x, *self.composed())
        return self._trainable_forward(x)

    def _trainable_forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        d_sigma = self.strength * self.d_sigma
        tokens = x.numel() // self.in_features
        delta = self._delta_bias()
        bias = self.bias if delta is None or self.bias is None else self.bias.float() + delta
        factored = self.training and factored_is_cheaper(tokens, self.out_features, self.in_features)
        with torch.autocast(device, enabled=False):
            if factored:
                y: Tensor = _Factored.apply(x, d_sigma, self.sigma, self.U, self.Vh)
            else:
                y = _Dense.apply(x, d_sigma, bias, self.weight, self.U, self.Vh)
            return y + bias.to(y.dtype) if factored and bias is not None else y

    @torch.no_grad()
    def merge(self) -> None:
        """Writes the effective weight and bias into the base's parameters; merged again, it is composed anew."""
        weight, bias = self.composed()
        if self.pristine is None:
            self.pristine = (self.weight.detach().clone(), None if self.bias is None else self.bias.detach().clone())
        self.weight.data.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.data.copy_(bias)

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
        return f"in_features={self.in_features}, out_features={self.out_features}, vectors={', '.join(self.vectors)}"
