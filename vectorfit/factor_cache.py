"""A cache on disk for the factors of large weights, by the weights' hash: a base is factorised once."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .atomic import write_atomically
from .cache_folder import cache_folder
from .errors import VectorFitError
from .svd import decompose

SMALLEST = 512  # of rows and columns: below it, factorising takes less time than reading
RECIPE = "1"  # raised when `decompose` gives other factors, so that older entries are not read
TOLERANCE = 1e-4  # relative error on a random vector up to which cached factors are accepted


def factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`decompose(weight)`, read from the cache where it is there.

    Several processes may share the folder: entries are written aside and renamed, and equal weights give equal factors.

    Raises:
        VectorFitError: as `decompose` does. Where the folder cannot be read or written, it factorises.
    """
    root = cache_folder("factors")
    if root is None or weight.is_meta or weight.ndim != 2 or min(weight.shape) < SMALLEST:
        return decompose(weight)
    content = weight.detach().float().cpu().contiguous()
    key = hashlib.sha256(f"{RECIPE} {tuple(content.shape)}".encode() + content.numpy().tobytes()).hexdigest()
    path = root / f"{key}.safetensors"
    cached = _read(path, weight)
    if cached is not None:
        return cached
    made = _computed(weight)
    _write(path, dict(zip(("U", "sigma", "Vh"), made, strict=True)))
    return made


def _computed(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`decompose(weight)`, computed on a GPU where there is one: a weight of 4096 x 4096 takes a CPU minutes."""
    if weight.device.type != "cpu" or not torch.cuda.is_available():
        return decompose(weight)
    U, sigma, Vh = decompose(weight.cuda())
    return U.cpu(), sigma.cpu(), Vh.cpu()


def _read(path: Path, weight: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """A complete entry that reproduces the weight, or None."""
    try:
        entry = load_file(path)
        U, sigma, Vh = (entry[name].to(weight.device) for name in ("U", "sigma", "Vh"))
    except (OSError, SafetensorError, KeyError):
        return None
    r = min(weight.shape)
    if (U.shape, sigma.shape, Vh.shape) != ((len(weight), r), (r,), (r, weight.shape[1])):
        return None
    x = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    expected = weight.detach().float() @ x
    error = torch.linalg.vector_norm(U @ (sigma * (Vh @ x)) - expected)
    return (U, sigma, Vh) if error <= TOLERANCE * torch.linalg.vector_norm(expected) else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        write_atomically(path, save({name: tensor.cpu() for name, tensor in tensors.items()}))
    except VectorFitError:
        return  # a full disk costs the time of factorising again, not the training
