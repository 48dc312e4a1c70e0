"""How a layer keeps the factors of its weight: both in float32, both in bfloat16, or the square one of the two.

Legend as in `layers`. Of U [out, r] and Vh [r, in] one is square. Where `out <= in` it is U, and the other follows from
the weight, Vh = diag(1 / sigma) U^T W0; otherwise it is Vh, and U = W0 V diag(1 / sigma). Directions whose sigma is too
small to divide by keep both: they are the `tail`, the last ones, since sigma descends.

In bfloat16 the other factor's error grows as sigma_rms / sigma_k: rounding the square factor leaks the strong
directions into the weak ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOAT32, BF16, SQUARE = "float32", "bf16", "square"
AUTO = "auto"
STORAGES = (AUTO, FLOAT32, BF16, SQUARE)
SQUARE_FROM = 2048  # from this r on "auto" keeps the square factor: two factors of float32 would take 32 MB or more
# A direction is kept whole where sigma_k < sigma_rms / TAIL. Measured by benchmarks.storage.
TAIL = {torch.bfloat16: 8.0, torch.float32: 64.0}


def storage_for(wanted: str, shape: Sequence[int], *, is_linear: bool = True) -> str:
    """The storage of a layer's factors: the wanted one, or by size for "auto"; convolutions keep float32.

    Shapes: `shape` is (out, in) of the weight as a matrix.
    """
    if not is_linear:
        return FLOAT32
    if wanted == AUTO:
        return SQUARE if min(shape) >= SQUARE_FROM else FLOAT32
    return wanted


def factor_bytes(storage: str, shape: Sequence[int], factor_dtype: torch.dtype = torch.float32) -> int:
    """The bytes of a layer's factors, without the tail of "square", which the values decide."""
    r = min(shape)
    if storage == SQUARE:
        return factor_dtype.itemsize * r * r
    return (2 if storage == BF16 else 4) * r * sum(shape)


def stored_dtype(storage: str, weight: Tensor) -> torch.dtype:
    """The dtype of the factors: "square" is as precise as the weight that it multiplies."""
    low = weight.dtype.itemsize < torch.float32.itemsize
    return torch.bfloat16 if storage == BF16 or (storage == SQUARE and low) else torch.float32


def tail_start(sigma: Tensor, dtype: torch.dtype) -> int:
    """The number of directions that are not in the tail. Shapes: sigma [r], descending."""
    root_mean_square = sigma.square().mean().sqrt()
    return int((sigma >= root_mean_square / TAIL[dtype]).sum()) if root_mean_square > 0 else 0


def split(U: Tensor, sigma: Tensor, Vh: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The square factor alone, and the tail of the other: U, Vh (one of them None) and tail, in `dtype`.

    Shapes: tail [t, in] where U is square, otherwise [out, t].
    """
    head = tail_start(sigma, dtype)
    if len(U) <= Vh.shape[1]:
        return U.to(dtype), None, Vh[head:].to(dtype).contiguous()
    return None, Vh.to(dtype), U[:, head:].to(dtype).contiguous()


def recovered(weight: Tensor, square: Tensor, sigma: Tensor, tail: Tensor, *, wide: bool) -> Tensor:
    """The factor that is not kept, in float32: Vh [r, in] where `wide` (U is square), otherwise U [out, r].

    Shapes: weight [out, in], square [r, r], sigma [r], tail as in `split`.
    """
    weight, square, tail = weight.float(), square.float(), tail.float()
    if wide:
        head = len(sigma) - len(tail)
        return torch.cat([(square[:, :head].T @ weight) / sigma[:head, None], tail])
    head = len(sigma) - tail.shape[1]
    return torch.cat([(weight @ square[:head].T) / sigma[:head], tail], 1)
