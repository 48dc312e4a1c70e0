"""Products in which each row of a batch has vectors of its own.

y_i = W0 x_i + U diag(d_sigma_i) Vh x_i + b0 + d_bias_i. Legend as in `layers`; `n` rows in a batch, `S` sets of
vectors, of which each row has one or none. A row with none is the base's. Rows of one set are together a segment.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import VectorFitError
from .factor_storage import BF16, SQUARE
from .layers import VectorFitLayer, VectorFitLinear
from .products import LOW_PRECISION

Sets = Tensor | Sequence[Tensor]  # vectors of several sets, stacked [S, n] or one by one [n]
BASE = -1  # instead of a set's number: the row has the base's weights
# A text encoder is called once or twice for a drawing, and a weight composed for that alone would not pay.
CALLS_BEFORE_KEEPING = 2


@dataclass(frozen=True)
class Batch:
    """Which rows of a batch have which set.

    `of_row` [n] is the set of each row, S where it has none. `order` [m] are the rows with a set, sorted by it; `sets`
    are the sets in that order, and `counts` how many rows each has. `base_rows` are the rows without one.
    """

    of_row: Tensor
    order: Tensor
    base_rows: Tensor
    sets: tuple[int, ...]
    counts: tuple[int, ...]
    sorted_already: bool  # `order` is 0, 1, ... over all rows

    @classmethod
    def of(cls, numbers: Sequence[int], num_sets: int, device: torch.device) -> "Batch":
        order = sorted((row for row, number in enumerate(numbers) if number != BASE), key=numbers.__getitem__)
        base_rows = [row for row, number in enumerate(numbers) if number == BASE]
        sets = sorted({numbers[row] for row in order})
        rows = ([num_sets if number == BASE else number for number in numbers], order, base_rows)
        of_row, order_, base = (torch.tensor(each, dtype=torch.long, device=device) for each in rows)
        counts = tuple(sum(number == one for number in numbers) for one in sets)
        return cls(of_row, order_, base, tuple(sets), counts, order == list(range(len(numbers))))


class Rows:
    """Which of `num_sets` sets of vectors each row of a batch has: its number, or `BASE`.

    A batch may hold the rows twice, one after the other, as classifier-free guidance does. `keeps_weights` says whether
    there is memory for a composed weight for each row.
    """

    def __init__(self, numbers: Sequence[int], num_sets: int, *, keeps_weights: bool = False) -> None:
        self.numbers, self.num_sets, self.keeps_weights = tuple(numbers), num_sets, keeps_weights
        self._batches: dict[tuple[int, torch.device], Batch] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, size: int, device: torch.device) -> Batch:
        """A batch of this size. Raises VectorFitError where it is neither the rows nor twice those."""
        n = len(self)
        if size not in (n, 2 * n):
            raise VectorFitError(
                f"a batch of {size} samples, expected {n} (or {2 * n} with guidance): one for each entry of the rows"
            )
        key = size, device
        if key not in self._batches:
            self._batches[key] = Batch.of(self.numbers * (size // n), self.num_sets, device)
        return self._batches[key]


def factored_rows_are_cheaper(tokens: int, sets: int, out: int, columns: int) -> bool:
    """Whether `U ((sigma + d_sigma) * (Vh x))` takes fewer multiply-adds than composing `sets` weights first.

    Forward alone, of `tokens` tokens in all. Factored: N r (out + in). Dense: N out in, and r out in for each weight.
    """
    r = min(out, columns)
    return tokens * r * (out + columns) < tokens * out * columns + sets * r * out * columns


class LayerRows:
    """A layer's sets of vectors for the rows of a batch: d_sigma [S, n] and d_bias [S, out], None where it has none."""

    def __init__(self, rows: Rows, d_sigma: Sets | None, d_bias: Sets | None) -> None:
        self.rows, self.d_sigma, self.d_bias = rows, d_sigma, d_bias
        self._calls = 0
        self._kept: tuple[Tensor, Tensor | None] | None = (
            None  # weights [n, in, out] and biases [n, 1, out] of the rows
        )

    def __call__(self, layer: VectorFitLayer, x: Tensor) -> Tensor:
        """What the layer does to x, whose first dimension is the batch's samples. Differentiable in the sets."""
        batch = self.rows.batch(len(x), x.device)
        if not batch.sets or (self.d_sigma is None and self.d_bias is None):
            return _as_base(layer, x)
        y = self._product(layer, x, batch)
        if len(batch.base_rows):
            # Of the whole batch: rounding depends on a batch's size.
            y = y.index_copy(0, batch.base_rows, _as_base(layer, x)[batch.base_rows].to(y.dtype))
        return y

    def _product(self, layer: VectorFitLayer, x: Tensor, batch: Batch) -> Tensor:
        """The result of all rows; that of the base's rows is not used."""
        if torch.is_grad_enabled() or layer.storage == SQUARE:
            return self._by_segment(layer, x, batch, self._trained)
        if not isinstance(layer, VectorFitLinear):
            return self._by_segment(layer, x, batch, self._composed)
        if self.d_sigma is None:
            return self._factored(layer, x, batch)
        self._calls += 1
        if self.rows.keeps_weights and self._calls > CALLS_BEFORE_KEEPING:
            return self._with_kept_weights(layer, x)
        out, columns = layer.matrix(layer.weight).shape
        cheaper = factored_rows_are_cheaper(x.numel() // columns, len(batch.sets), out, columns)
        if cheaper and layer.pattern.is_diagonal:
            return self._factored(layer, x, batch)
        return self._by_segment(layer, x, batch, self._composed)

    def _set(self, number: int) -> tuple[Tensor | None, Tensor | None]:
        """The vectors d_sigma [n] and d_bias [out] of a set."""
        sigma, bias = self.d_sigma, self.d_bias
        return None if sigma is None else sigma[number], None if bias is None else bias[number]

    def _by_segment(
        self, layer: VectorFitLayer, x: Tensor, batch: Batch, product: Callable[[VectorFitLayer, Tensor, int], Tensor]
    ) -> Tensor:
        """Set by set, `product` of the layer, the rows of a set, and its number."""
        ordered = x if batch.sorted_already else x[batch.order]
        segments = zip(torch.split(ordered, list(batch.counts)), batch.sets, strict=True)
        parts = [product(layer, part, number) for part, number in segments]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        if batch.sorted_already:
            return y
        return y.new_zeros((len(x), *y.shape[1:])).index_copy(0, batch.order, y)

    def _trained(self, layer: VectorFitLayer, x: Tensor, number: int) -> Tensor:
        """As the layer trains this set alone."""
        return layer.trainable_forward(x, *self._set(number))

    def _composed(self, layer: VectorFitLayer, x: Tensor, number: int) -> Tensor:
        weight, bias = layer.effective(*self._set(number))
        return layer.transform(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def _factored(self, layer: VectorFitLayer, x: Tensor, batch: Batch) -> Tensor:
        """From right to left, all rows at once. In low precision the change is added to the base's own product."""
        weight, bias = layer.matrix(layer.weight).to(x.dtype), self._spread(self.d_bias, batch, x)
        if layer.bias is not None:
            bias = layer.bias if bias is None else layer.bias.float() + bias
        scale = self._spread(self.d_sigma, batch, x)
        if scale is None:
            y = F.linear(x, weight)
        else:
            projected, U = x @ layer.Vh.to(x.dtype).T, layer.U.to(x.dtype)  # [n, ..., r], [out, r]
            # Factors that are kept in bfloat16 would round the base's own weight too.
            if x.dtype not in LOW_PRECISION and layer.storage != BF16:
                y = F.linear(projected * (layer.sigma + scale), U)
            else:
                y = F.linear(x, weight) + F.linear((projected * scale).to(x.dtype), U)
        return y if bias is None else y + bias.to(y.dtype)

    def _spread(self, vectors: Sets | None, batch: Batch, x: Tensor) -> Tensor | None:
        """Vectors [S, n] as each row has them, [rows, 1, ..., n] with as many dimensions as x."""
        if vectors is None:
            return None
        stacked = vectors if isinstance(vectors, Tensor) else torch.stack(list(vectors))
        with_base = F.pad(stacked, (0, 0, 0, 1))  # a row of zeros, of which the base's rows have the number
        return with_base[batch.of_row].view(len(x), *(1,) * (x.ndim - 2), -1)

    def _with_kept_weights(self, layer: VectorFitLinear, x: Tensor) -> Tensor:
        """With a composed weight for each row, made once."""
        if self._kept is None or self._kept[0].dtype != x.dtype:
            self._kept = self._weights(layer, x.dtype)
        weights, biases = self._kept
        n, tokens = len(self.rows), x.reshape(len(x), -1, x.shape[-1])
        y = torch.empty(*tokens.shape[:2], weights.shape[-1], dtype=x.dtype, device=x.device)
        for part, result in zip(torch.split(tokens, n), torch.split(y, n), strict=True):
            torch.bmm(part, weights, out=result)
            if biases is not None:  # of wide layers in three quarters of baddbmm's time
                result += biases
        return y.view(*x.shape[:-1], -1)

    def _weights(self, layer: VectorFitLinear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The weights [n, in, out] and the biases [n, 1, out] of the rows, in row order."""
        nothing = (None if self.d_sigma is None else torch.zeros_like(self.d_sigma[0]), None)
        weights, biases = [], []
        for number in self.rows.numbers:
            weight, bias = layer.effective(*(nothing if number == BASE else self._set(number)))
            weights.append(layer.matrix(weight).T.to(dtype))
            biases.append(None if bias is None else bias.to(dtype))
        all_biases = [bias for bias in biases if bias is not None]
        return torch.stack(weights), torch.stack(all_biases)[:, None] if all_biases else None


def _as_base(layer: VectorFitLayer, x: Tensor) -> Tensor:
    bias = layer.bias
    return layer.transform(x, layer.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@contextmanager
def seated(rows: Mapping[VectorFitLayer, LayerRows]) -> Iterator[None]:
    """Within the context each of these layers takes its vectors from its rows, not from its own deltas."""
    before = {layer: layer.rows for layer in rows}
    try:
        for layer, own in rows.items():
            layer.rows = own
        yield
    finally:
        for layer, own_before in before.items():
            layer.rows = own_before
