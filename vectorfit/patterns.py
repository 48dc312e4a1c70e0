"""Where the matrix M of `dW = U M Vh` may be other than zero: VectorFit's diagonal, and SVFT's wider patterns.

Legend: `r = min(out, in)`, M [r, r] with `n` entries at (rows[k], columns[k]), of the value values[k]. M itself is made
only for a product, and only where that is faster than its entries one by one. `rows` None stands for the diagonal,
entry k at (k, k).

Source: SVFT (arXiv 2405.19597), Section 3. Unlike SVFT's own code we start at zero, draw no entry twice and take the
largest alignments by magnitude.
"""

import torch
from torch import Tensor

PATTERNS = ("plain", "banded", "random", "top_k")
# As many multiply-adds of a whole matrix take about as long as one entry that is gathered and scattered: on CPUs 250 in
# float32, 1,000 in bfloat16.
GATHERED = 300


def num_entries(pattern: str, r: int, width: int) -> int:
    """The entries of a pattern: r in the plain one, in all others as many as a band of `width` on each side has."""
    if pattern == "plain":
        return r
    width = min(width, r - 1)
    return r * (2 * width + 1) - width * (width + 1)


def entries_of(pattern: str, width: int, U: Tensor, Vh: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The rows and columns of a pattern's entries, each once, sorted; None and None for the diagonal.

    "banded" takes the diagonal and `width` more on each side. "random" draws as many entries by lot, the same for equal
    r. "top_k" takes as many where a left and a right singular vector are the most aligned, by magnitude: |U^T V| for a
    square weight; where the spaces differ, the square one of the two factors, as SVFT does.

    Shapes: U [out, r], Vh [r, in]; rows and columns [n], int64.
    """
    if pattern == "plain":
        return None, None
    r = len(Vh)
    count, device = num_entries(pattern, r, width), U.device
    if pattern == "banded":
        places = torch.arange(r, device=device)
        rows, columns = torch.nonzero((places[:, None] - places).abs() <= width, as_tuple=True)
        return rows, columns
    if pattern == "random":
        chosen = torch.randperm(r * r, generator=torch.Generator().manual_seed(0))[:count].to(device)
    else:
        square = len(U) == Vh.shape[1]
        # In float64: a device that multiplies in less would choose other entries, and a file mean something else there.
        alignment = U.double().T @ Vh.double().T if square else (U if len(U) == r else Vh)
        chosen = alignment.abs().flatten().topk(count).indices
    chosen = chosen.sort().values
    return chosen // r, chosen % r


def product_work(r: int, n: int) -> int:
    """Multiply-adds that n entries beside the diagonal's scale take for each row of X in `times` or `entries`."""
    return r * r if _made_whole(r, n) else n


def _made_whole(r: int, n: int) -> bool:
    return r * r <= GATHERED * n


def times(X: Tensor, values: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """X M. Shapes: X [..., r], values [n]; result [..., r]. For X M^T give the rows as columns and the reverse."""
    if rows is None or columns is None:
        return X * values
    r = X.shape[-1]
    if _made_whole(r, len(values)):
        M = torch.zeros(r, r, dtype=X.dtype, device=X.device)
        M[rows, columns] = values.to(X.dtype)
        return X @ M
    result = torch.zeros_like(X)
    for row, column, value in _portions(r, rows, columns, values):
        result.index_add_(-1, column, X[..., row] * value)
    return result


def entries(A: Tensor, B: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """The entries of A^T B that are in the pattern, in float32 or better. Shapes: A, B [m, r]; result [n]."""
    if rows is None or columns is None:
        return summed(A * B)
    if _made_whole(A.shape[1], len(rows)):
        return (A.T @ B)[rows, columns].to(torch.promote_types(A.dtype, torch.float32))
    return torch.cat([summed(A[:, row] * B[:, column]) for row, column in _portions(A.shape[1], rows, columns)])


def summed(X: Tensor) -> Tensor:
    """The sum over the first dimension, in float32 or better. Shapes: [m, n]; result [n]."""
    # Summing bfloat16 adds up in float32 and rounds once; asked for float32 outright, a CPU takes ten times as long.
    if X.dtype == torch.bfloat16:
        return X.sum(0).float()
    return X.sum(0, dtype=torch.promote_types(X.dtype, torch.float32))


def _portions(r: int, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    """The entries r at a time, so that what is made on the way is no larger than a factor."""
    return zip(*(torch.split(tensor, r) for tensor in tensors), strict=True)
