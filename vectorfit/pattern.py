"""Patterns: which entries of the matrix M in `dW = U M Vh` are trained. VectorFit trains the diagonal, SVFT more.

Legend: `r = min(out, in)`. M [r, r] has `n` trained entries; all others are zero. `values` [n] holds the entries, and
`positions` [2, n] their rows and columns. M itself is made only for a product, and only where that is faster than
taking its entries one by one.

To add a pattern, write its class here and add its row to `PATTERNS`.

Source: SVFT (arXiv 2405.19597), Section 3. SVFT's own code differs: it starts at random values, may draw an entry
twice, and takes the largest alignments by sign instead of by magnitude.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .svd import in_float64

# A dense matrix product does this many multiply-adds in the time that one gathered and scattered entry takes. On CPUs
# it is 250 in float32 and 1,000 in bfloat16.
GATHERED = 300


@dataclass(frozen=True)
class Pattern(ABC):
    """Which entries of M are trained. Equal patterns take the same entries of equal factors.

    Class attributes:
        name: the name in configurations and files.
        is_diagonal: M is a scale of each singular value, so that its entries change singular values one by one.
        depends_on_factors: the entries are chosen by the values of U and Vh, so another device may choose others.
    """

    name: ClassVar[str]
    is_diagonal: ClassVar[bool] = False
    depends_on_factors: ClassVar[bool] = False

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of `VectorFitConfig` that stand for it."""
        return {"pattern": self.name}

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def size(self, r: int) -> int:
        """The number n of entries."""

    @abstractmethod
    def positions(self, U: Tensor, Vh: Tensor) -> Tensor | None:
        """The rows and columns of the entries, or None where n = r and entry k is at (k, k).

        Shapes: U [out, r], Vh [r, in]; result [2, n], int64.
        """

    @abstractmethod
    def work(self, r: int) -> int:
        """The multiply-adds that a row of X takes in `times` or `entries`, beyond those of scaling by sigma."""

    @abstractmethod
    def times(self, X: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False) -> Tensor:
        """X M, or X M^T where `transposed`. Shapes: X [..., r], values [n]; result [..., r]."""

    @abstractmethod
    def times_spectrum(
        self, X: Tensor, sigma: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False
    ) -> Tensor:
        """X (diag(sigma) + M), or X (diag(sigma) + M)^T where `transposed`, in X's dtype.

        Shapes: X [..., r], sigma [r], values [n]; result [..., r].
        """

    @abstractmethod
    def entries(self, A: Tensor, B: Tensor, positions: Tensor | None) -> Tensor:
        """The pattern's entries of A^T B, in float32 or better. Shapes: A, B [m, r]; result [n]."""

    @abstractmethod
    def singular_form(
        self, U: Tensor, values: Tensor, Vh: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Left vectors, values and right vectors whose product is U M Vh; the values may be negative and unsorted.

        Shapes: U [out, r], values [n], Vh [r, in]; result [out, r], [r], [r, in].
        """


@dataclass(frozen=True)
class Diagonal(Pattern):
    """VectorFit's pattern: entry k is at (k, k)."""

    name: ClassVar[str] = "plain"
    is_diagonal: ClassVar[bool] = True

    def size(self, r: int) -> int:
        return r

    def positions(self, U: Tensor, Vh: Tensor) -> None:
        return None

    def work(self, r: int) -> int:
        return 0

    def times(self, X: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False) -> Tensor:
        return X * values

    def times_spectrum(
        self, X: Tensor, sigma: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False
    ) -> Tensor:
        # Scaled in float32 or better: sigma + d_sigma in bfloat16 would round small changes away, and bias them.
        return (X * (sigma + values)).to(X.dtype)

    def entries(self, A: Tensor, B: Tensor, positions: Tensor | None) -> Tensor:
        return summed(A * B)

    def singular_form(
        self, U: Tensor, values: Tensor, Vh: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return U, values, Vh


@dataclass(frozen=True)
class Scattered(Pattern):
    """A pattern whose entries lie anywhere in M.

    `width` is its one number. SVFT's patterns all have as many entries as a band of `width` diagonals on each side of
    the main one; a pattern with another number of entries has its own `size`.
    """

    width: int = 1

    @property
    def fields(self) -> dict[str, Any]:
        return {"pattern": self.name, "pattern_width": self.width}

    def __str__(self) -> str:
        return f"{self.name} (width {self.width})"

    def size(self, r: int) -> int:
        width = min(self.width, r - 1)
        return r * (2 * width + 1) - width * (width + 1)

    def positions(self, U: Tensor, Vh: Tensor) -> Tensor:
        r = len(Vh)
        chosen = self.choose(U, Vh, self.size(r)).sort().values
        return torch.stack([chosen // r, chosen % r])

    @abstractmethod
    def choose(self, U: Tensor, Vh: Tensor, count: int) -> Tensor:
        """The chosen entries as indices `r * row + column`, each once, in any order. Shape: [count], int64."""

    def work(self, r: int) -> int:
        n = self.size(r)
        return r * r if _dense_is_faster(r, n) else n

    def times(self, X: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False) -> Tensor:
        assert positions is not None
        rows, columns = positions.flip(0) if transposed else positions
        r = X.shape[-1]
        if _dense_is_faster(r, len(values)):
            M = torch.zeros(r, r, dtype=X.dtype, device=X.device)
            M[rows, columns] = values.to(X.dtype)
            return X @ M
        result = torch.zeros_like(X)
        for row, column, value in _portions(r, rows, columns, values):
            result.index_add_(-1, column, X[..., row] * value)
        return result

    def times_spectrum(
        self, X: Tensor, sigma: Tensor, values: Tensor, positions: Tensor | None, *, transposed: bool = False
    ) -> Tensor:
        scaled = X * sigma + self.times(X, values.to(X.dtype), positions, transposed=transposed)
        return scaled.to(X.dtype)

    def entries(self, A: Tensor, B: Tensor, positions: Tensor | None) -> Tensor:
        assert positions is not None
        rows, columns = positions
        r = A.shape[1]
        if _dense_is_faster(r, len(rows)):
            return (A.T @ B)[rows, columns].to(torch.promote_types(A.dtype, torch.float32))
        return torch.cat([summed(A[:, row] * B[:, column]) for row, column in _portions(r, rows, columns)])

    def singular_form(
        self, U: Tensor, values: Tensor, Vh: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        M = self.times(torch.eye(len(Vh), device=U.device), values, positions)
        left, singular_values, right = torch.linalg.svd(in_float64(M), full_matrices=False)
        return U @ left.to(U), singular_values.to(U), right.to(Vh) @ Vh


@dataclass(frozen=True)
class Banded(Scattered):
    """The diagonal and `width` more on each side."""

    name: ClassVar[str] = "banded"

    def choose(self, U: Tensor, Vh: Tensor, count: int) -> Tensor:
        index = torch.arange(len(Vh), device=U.device)
        return torch.nonzero(((index[:, None] - index).abs() <= self.width).flatten()).flatten()


@dataclass(frozen=True)
class Random(Scattered):
    """Entries drawn at random, the same for every layer of equal r."""

    name: ClassVar[str] = "random"

    def choose(self, U: Tensor, Vh: Tensor, count: int) -> Tensor:
        r = len(Vh)
        return torch.randperm(r * r, generator=torch.Generator().manual_seed(0))[:count].to(U.device)


@dataclass(frozen=True)
class TopK(Scattered):
    """The entries whose left and right singular vectors are the most aligned, by magnitude.

    The alignment of a square weight is |U^T V|. In other weights the two kinds of vectors have different lengths; the
    square one of U and Vh then serves instead, as in SVFT's code.
    """

    name: ClassVar[str] = "top_k"
    depends_on_factors: ClassVar[bool] = True

    def choose(self, U: Tensor, Vh: Tensor, count: int) -> Tensor:
        square = len(U) == Vh.shape[1]
        # In float64: a device that multiplies in less would choose other entries, and a file would mean another change.
        alignment = in_float64(U).T @ in_float64(Vh).T if square else (U if len(U) == len(Vh) else Vh)
        return alignment.abs().flatten().topk(count).indices.to(U.device)


DIAGONAL = Diagonal()
PATTERNS: dict[str, type[Pattern]] = {kind.name: kind for kind in (Diagonal, Banded, Random, TopK)}


def pattern_named(name: str, width: int) -> Pattern:
    """The pattern of a name in `PATTERNS`; the diagonal has no width."""
    kind = PATTERNS[name]
    return kind(width) if issubclass(kind, Scattered) else kind()


def summed(X: Tensor) -> Tensor:
    """The sum over the first dimension, in float32 or better. Shapes: [m, n]; result [n]."""
    # A bfloat16 sum adds up in float32 and rounds once; asked for float32 outright, a CPU takes ten times as long.
    if X.dtype == torch.bfloat16:
        return X.sum(0).float()
    return X.sum(0, dtype=torch.promote_types(X.dtype, torch.float32))


def _dense_is_faster(r: int, n: int) -> bool:
    return r * r <= GATHERED * n


def _portions(r: int, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    """The entries r at a time, so that intermediate tensors are no larger than a factor."""
    return zip(*(torch.split(tensor, r) for tensor in tensors), strict=True)
