"""Products with an adapted weight, factored or dense, the rule that chooses, and their gradients.

Legend: `N` tokens, `out` x `in` the weight as a matrix, `r = min(out, in)`, `n` trained entries of M (`pattern`).
W0 [out, in] = U diag(sigma) Vh, with U [out, r], sigma [r], Vh [r, in]. M [r, r] holds d_sigma [n]; its `positions` are
[2, n], or None for the diagonal, where n = r. `...` stands for dimensions whose product is N.

Source: Eq. 1-3 and 11 of VectorFit (arXiv 2503.19530).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .pattern import DIAGONAL, Pattern, summed


def compose(
    weight: Tensor,
    d_sigma: Tensor,
    U: Tensor,
    Vh: Tensor,
    pattern: Pattern = DIAGONAL,
    positions: Tensor | None = None,
) -> Tensor:
    """Eq. 2: W = W0 + U M Vh, in the precision of W0 or of U, whichever is higher.

    Shapes: weight [out, in], d_sigma [n], U [out, r], Vh [r, in]; result [out, in].
    """
    change = pattern.times(U, d_sigma.to(U.dtype), positions) @ Vh
    return weight.to(torch.promote_types(weight.dtype, U.dtype)) + change


def factored_is_cheaper(tokens: int, out: int, columns: int, pattern_work: int = 0) -> bool:
    """Whether `U (sigma * (Vh x))` takes fewer multiply-adds, forward and backward, than composing W.

    Factored: 2 N r (out + in). Dense: 3 N out in for the products with W, and 2 r out in to compose W and to take
    diag(U^T G Vh^T). `columns` is `in`. `pattern_work` is what a row takes in a product with M (`Pattern.work`): three
    such products of N rows in the factored way; in the dense way one of `out` rows to compose W, and one of `in` rows
    for the gradient.
    """
    r = min(out, columns)
    factored = 2 * tokens * r * (out + columns) + 3 * tokens * pattern_work
    dense = 3 * tokens * out * columns + 2 * r * out * columns + pattern_work * (out + columns)
    return factored < dense


def _sigma_gradient(G: Tensor, U: Tensor, Vh: Tensor, pattern: Pattern, positions: Tensor | None) -> Tensor:
    """dL/dM = U^T G Vh^T, of which the pattern's entries are taken: of VectorFit diag(U^T G V), Eq. 11 corrected.

    Shapes: G = dL/dW [out, in], U [out, r], Vh [r, in]; result [n].
    """
    return pattern.entries((U.T @ G.to(U.dtype)).T, Vh.T, positions)


def _sum_of(bias: Tensor | None, base_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias to add, summed in float32 or better. Shapes: [out] each."""
    if bias is None or base_bias is None:
        total = base_bias if bias is None else bias
    else:
        total = base_bias.to(torch.promote_types(base_bias.dtype, bias.dtype)) + bias
    return None if total is None else total.to(dtype)


class DenseProduct(torch.autograd.Function):
    """y = x W^T + b with W = W0 + U M Vh composed.

    Backward, with g = dL/dy [..., out] and G = g^T x [out, in]: dL/dx = g W, dL/dd_sigma = the entries of U^T G Vh^T,
    dL/db = g summed over tokens. W0, U and Vh get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., in]
        d_sigma: Tensor,  # [n]
        bias: Tensor | None,  # [out]
        weight: Tensor,  # W0 [out, in]
        U: Tensor,  # [out, r]
        Vh: Tensor,  # [r, in]
        pattern: Pattern,
        positions: Tensor | None,  # [2, n]
        change_dtype: torch.dtype | None = None,  # of U M Vh and of the products in its gradient; None: as U
        base_bias: Tensor | None = None,  # [out], added to the bias, without a gradient
    ) -> Tensor:  # y [..., out]
        ctx.change_dtype = dtype = change_dtype or U.dtype
        composed = compose(weight, d_sigma, U.to(dtype), Vh.to(dtype), pattern, positions)
        composed = composed.to(weight.dtype).to(x.dtype)
        ctx.save_for_backward(x, composed, U, Vh, positions)
        ctx.pattern = pattern
        return F.linear(x, composed, _sum_of(bias, base_bias, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads  # g [..., out]
        x, composed, U, Vh, positions = ctx.saved_tensors
        dx = grad @ composed if ctx.needs_input_grad[0] else None  # [..., in]
        grad_rows, d_sigma, d_bias = grad.flatten(0, -2), None, None  # [N, out]
        if ctx.needs_input_grad[1]:
            G = grad_rows.T @ x.flatten(0, -2)  # [out, in]
            dtype = ctx.change_dtype
            d_sigma = _sigma_gradient(G, U.to(dtype), Vh.to(dtype), ctx.pattern, positions)  # [n]
        if ctx.needs_input_grad[2]:
            d_bias = summed(grad_rows)  # [out]
        return dx, d_sigma, d_bias, None, None, None, None, None, None, None


def _of_vectors(
    ctx: Any, grad: Tensor, grad_projected: Tensor, projected: Tensor, positions: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dd_sigma [n] and dL/db [out] of the two products below, None where it is not needed.

    `grad` is g [..., out], `grad_projected` U^T g and `projected` Vh x, both [..., r].
    """
    d_sigma = d_bias = None
    if ctx.needs_input_grad[1]:
        d_sigma = ctx.pattern.entries(grad_projected.flatten(0, -2), projected.flatten(0, -2), positions)
    if ctx.has_bias and ctx.needs_input_grad[7]:
        d_bias = summed(grad.flatten(0, -2))
    return d_sigma, d_bias


class FactoredProduct(torch.autograd.Function):
    """y = U (diag(sigma) + M) Vh x + b, from right to left. It keeps Vh x, which is r wide, and not x.

    Backward, with g = dL/dy [..., out] and S = diag(sigma) + M: dL/dx = Vh^T S^T U^T g, dL/dd_sigma = the entries of
    (U^T g) (Vh x)^T, summed over tokens, dL/db = g summed over tokens. sigma, U and Vh get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., in]
        d_sigma: Tensor,  # [n]
        sigma: Tensor,  # [r]
        U: Tensor,  # [out, r]
        Vh: Tensor,  # [r, in]
        pattern: Pattern,
        positions: Tensor | None,  # [2, n]
        bias: Tensor | None = None,  # [out]
        base_bias: Tensor | None = None,  # [out], added to the bias, without a gradient
    ) -> Tensor:  # y [..., out]
        projected = x @ Vh.to(x.dtype).T  # [..., r]
        # The factors as they are: their copies in x's dtype would be held for every layer until its backward.
        ctx.save_for_backward(projected, sigma, d_sigma, U, Vh, positions)
        ctx.pattern, ctx.has_bias = pattern, bias is not None
        scaled = pattern.times_spectrum(projected, sigma, d_sigma, positions, transposed=True)  # [..., r]
        return F.linear(scaled, U.to(x.dtype), _sum_of(bias, base_bias, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads  # g [..., out]
        projected, sigma, values, U, Vh, positions = ctx.saved_tensors
        grad_projected = grad @ U.to(grad.dtype)  # U^T g, [..., r]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.pattern.times_spectrum(grad_projected, sigma, values, positions) @ Vh.to(grad.dtype)  # [..., in]
        d_sigma, d_bias = _of_vectors(ctx, grad, grad_projected, projected, positions)
        return dx, d_sigma, None, None, None, None, None, d_bias, None


class SplitProduct(torch.autograd.Function):
    """y = [W0, U] [x, M Vh x] + b, one product that adds the change before it rounds, for a W0 of low precision.

    W0 + U M Vh rounded to W0's own dtype would lose small changes: W0 lies on that dtype's grid, so a change of less
    than half a step vanishes. Backward, with g = dL/dy [..., out]: dL/dx = g W0 + (M^T U^T g) Vh, and the others as in
    `FactoredProduct`. W0, U and Vh get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., in]
        d_sigma: Tensor,  # [n]
        weight: Tensor,  # W0 [out, in]
        U: Tensor,  # [out, r]
        Vh: Tensor,  # [r, in]
        pattern: Pattern,
        positions: Tensor | None,  # [2, n]
        bias: Tensor | None = None,  # [out]
        base_bias: Tensor | None = None,  # [out], added to the bias, without a gradient
    ) -> Tensor:  # y [..., out]
        projected = x @ Vh.to(x.dtype).T  # [..., r]
        ctx.save_for_backward(projected, d_sigma, weight, U, Vh, positions)
        ctx.pattern, ctx.has_bias = pattern, bias is not None
        change = pattern.times(projected, d_sigma, positions, transposed=True).to(x.dtype)  # [..., r]
        both = torch.cat([weight.to(x.dtype), U.to(x.dtype)], 1)  # [out, in + r]
        return F.linear(torch.cat([x, change], -1), both, _sum_of(bias, base_bias, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads  # g [..., out]
        projected, values, weight, U, Vh, positions = ctx.saved_tensors
        grad_projected = grad @ U.to(grad.dtype)  # U^T g, [..., r]
        dx = None
        if ctx.needs_input_grad[0]:
            change = ctx.pattern.times(grad_projected, values, positions).to(grad.dtype)
            dx = grad @ weight.to(grad.dtype) + change @ Vh.to(grad.dtype)  # [..., in]
        d_sigma, d_bias = _of_vectors(ctx, grad, grad_projected, projected, positions)
        return dx, d_sigma, None, None, None, None, None, d_bias, None


class WeightCalls:
    """The two products that a weight of a plain layer is called for. A quantised one has calls of its own."""

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """x W0^T. Shapes: x [N, in], weight [out, in]; result [N, out]."""
        return x @ weight.to(x.dtype).T

    def apply_transposed(self, g: Tensor, weight: Tensor) -> Tensor:
        """g W0. Shapes: g [N, out], weight [out, in]; result [N, in]."""
        return g @ weight.to(g.dtype)

    def beside(self, x: Tensor, weight: Tensor, s: Tensor, U: Tensor, h: Tensor) -> Tensor:
        """h + s U^T for h = x W0^T, rounded once. Shapes: x [N, in], s [N, r], U [out, r], h and result [N, out].

        In low precision h lies on that precision's grid, and a change of less than half a step of it would vanish. So
        W0 is multiplied again, in one product with U.
        """
        if x.dtype not in LOW_PRECISION:
            return torch.addmm(h, s, U.T)
        return F.linear(torch.cat([x, s], 1), torch.cat([weight.to(x.dtype), U], 1))

    def inside(self, x: Tensor, change: Tensor, weight: Tensor, s: Tensor, U: Tensor) -> Tensor:
        """(x + change) W0^T + s U^T, rounded once. Shapes: x, change [N, in], s [N, t], U [out, t]; result [N, out].

        In low precision as `beside`: x lies on the grid too.
        """
        if x.dtype not in LOW_PRECISION:
            return torch.addmm(self.apply_weight(x + change, weight), s, U.T)
        W = weight.to(x.dtype)
        return F.linear(torch.cat([x, change, s], 1), torch.cat([W, W, U], 1))


LOW_PRECISION = (torch.bfloat16, torch.float16)
DENSE_CALLS = WeightCalls()


class SquareProduct(torch.autograd.Function):
    """y = (W0 + U M Vh) x + b from the square factor alone (`factor_storage`); W0 is only called.

    Wide, U is square, with h = W0 x: y = h + U M p, where p = Vh x is U^T h / sigma, in the tail Vh x itself.
    Otherwise, Vh is square, with p = Vh x and s = M p: y = W0 (x + V (s / sigma)) + U s of the tail.

    Backward, with g = dL/dy: q = U^T g, in the second form V^T (W0^T g) / sigma; dL/dd_sigma = the entries of q p^T,
    dL/db = g summed over tokens. sigma, the factors and W0 get no gradient.

    The weight may be of any kind: what it is called for is `calls`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., in]
        d_sigma: Tensor,  # [n]
        sigma: Tensor,  # [r]
        square: Tensor,  # U or Vh, [r, r]
        tail: Tensor,  # [t, in] of Vh or [out, t] of U
        weight: Tensor,  # W0, of any kind
        pattern: Pattern,
        bias: Tensor | None,  # [out]
        positions: Tensor | None,  # [2, n]
        calls: WeightCalls,
        wide: bool,
        base_bias: Tensor | None = None,  # [out], added to the bias, without a gradient
    ) -> Tensor:  # y [..., out]
        ctx.pattern, ctx.calls, ctx.wide, ctx.has_bias = pattern, calls, wide, bias is not None
        b = _sum_of(bias, base_bias, x.dtype)
        factor, rest, rows = square.to(x.dtype), tail.to(x.dtype), x.flatten(0, -2)
        if wide:
            head = len(sigma) - len(tail)
            h = calls.apply_weight(rows, weight)
            p = torch.cat([((h @ factor[:, :head]) / sigma[:head]).to(x.dtype), rows @ rest.T], 1)  # [N, r]
            s = pattern.times(p, d_sigma, positions, transposed=True).to(x.dtype)
            y = calls.beside(rows, weight, s, factor, h)
        else:
            head = len(sigma) - tail.shape[1]
            p = rows @ factor.T
            s = pattern.times(p, d_sigma, positions, transposed=True)
            change = (s[:, :head] / sigma[:head]).to(x.dtype) @ factor[:head]
            y = calls.inside(rows, change, weight, s[:, head:].to(x.dtype), rest)
        ctx.save_for_backward(p, d_sigma, sigma, square, tail, weight, positions)
        return (y if b is None else y + b).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        p, values, sigma, square, tail, weight, positions = ctx.saved_tensors
        (grad,) = grads  # g [..., out]
        g, pattern, dx = grad.flatten(0, -2), ctx.pattern, None
        factor, rest = square.to(g.dtype), tail.to(g.dtype)
        if ctx.wide:
            head = len(sigma) - len(tail)
            q = g @ factor  # [N, r]
            if ctx.needs_input_grad[0]:
                s = pattern.times(q, values, positions)
                dh = torch.addmm(g, (s[:, :head] / sigma[:head]).to(g.dtype), factor[:, :head].T)
                dx = torch.addmm(ctx.calls.apply_transposed(dh, weight), s[:, head:].to(g.dtype), rest)
        else:
            head = len(sigma) - tail.shape[1]
            back = ctx.calls.apply_transposed(g, weight)  # g W0 [N, in]
            q = torch.cat([((back @ factor[:head].T) / sigma[:head]).to(g.dtype), g @ rest], 1)
            if ctx.needs_input_grad[0]:
                dx = torch.addmm(back, pattern.times(q, values, positions).to(g.dtype), factor)
        d_sigma, d_bias = _of_vectors(ctx, grad, q, p, positions)
        dx = None if dx is None else dx.view(*grad.shape[:-1], -1)
        return dx, d_sigma, None, None, None, None, None, d_bias, None, None, None, None


class ComposedWeight(torch.autograd.Function):
    """W = W0 + U M Vh. Backward gives dL/dd_sigma = the entries of U^T G Vh^T for G = dL/dW, and nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        d_sigma: Tensor,  # [n]
        weight: Tensor,  # W0 [out, in]
        U: Tensor,  # [out, r]
        Vh: Tensor,  # [r, in]
        pattern: Pattern,
        positions: Tensor | None,  # [2, n]
    ) -> Tensor:  # W [out, in]
        ctx.save_for_backward(U, Vh, positions)
        ctx.pattern = pattern
        return compose(weight, d_sigma, U, Vh, pattern, positions).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (G,) = grads  # [out, in]
        U, Vh, positions = ctx.saved_tensors
        return _sigma_gradient(G, U, Vh, ctx.pattern, positions), None, None, None, None, None
