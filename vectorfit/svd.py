"""The factorisation W0 = U diag(sigma) Vh that everything else stands on."""

import torch
from torch import Tensor

from .errors import VectorFitError

# Below this share of the largest singular value the Gram matrix, whose spectrum is squared, has lost too many digits.
STEEPEST_RATIO = 1e-5


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has no float64 (MPS)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def decompose(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factorises a weight so that `weight = U @ diag(sigma) @ Vh`.

    An eigendecomposition of the float64 Gram matrix of the smaller side costs as much as a float32 SVD and pins the
    basis a thousand times better; a spectrum too steep for it gets a float64 SVD. Signs are fixed (the largest entry of
    every left vector is positive), so equal weights give equal factors.

    Shapes: `weight` [out, in]; `U` [out, r], `sigma` [r] descending, `Vh` [r, in], all float32, r = min(out, in).

    Raises:
        VectorFitError: the weight is not a matrix, is on the meta device, or holds NaN or infinity.

    Source: Eq. 1 of VectorFit (arXiv 2503.19530).
    """
    if weight.ndim != 2 or min(weight.shape) == 0:
        raise VectorFitError(f"got a weight of shape {tuple(weight.shape)}, expected a non-empty matrix")
    if weight.is_meta:
        raise VectorFitError("the weight is on the meta device and has no values; load the model before injecting")
    matrix = in_float64(weight.detach())
    if not torch.isfinite(matrix).all():
        raise VectorFitError("the weight holds NaN or infinite values and cannot be factorised")
    wide = matrix.shape[0] <= matrix.shape[1]
    factors = _gram(matrix if wide else matrix.T)
    if factors is None:
        U, sigma, Vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, sigma, right = factors
        U, Vh = (left, right) if wide else (right.T, left.T)
    largest = U.abs().argmax(0)
    sign = torch.where(U.gather(0, largest[None])[0] < 0, -1.0, 1.0)
    U, Vh = U * sign, Vh * sign[:, None]
    made = U.float().contiguous(), sigma.float(), Vh.float().contiguous()
    return made[0].to(weight.device), made[1].to(weight.device), made[2].to(weight.device)


def _gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Factors of a wide matrix [m, n], m <= n, by its Gram matrix; None where the spectrum is too steep."""
    squares, left = torch.linalg.eigh(matrix @ matrix.T)
    squares, left = squares.flip(0), left.flip(1)
    if squares[0] <= 0 or squares[-1] < (STEEPEST_RATIO**2) * squares[0]:
        return None
    sigma = squares.sqrt()
    return left, sigma, (left.T @ matrix) / sigma[:, None]
