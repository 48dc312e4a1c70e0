"""Factors of large weights, kept on disk by the weights' hash: a base is factorised once and not at every start."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .atomic import write_atomically
from .errors import VectorFitError
from .svd import decompose

SMALLEST = 512  # rows or columns, whichever are fewer: below, factorising takes less than reading
RECIPE = "1"  # counts up when `decompose` gives other factors; older entries are then left unread
TOLERANCE = 1e-4  # relative error on a random vector up to which factors are taken to be the weight's own


def folder() -> Path | None:
    """Where factors are kept: VECTORFIT_CACHE, by default `~/.cache/vectorfit`; nowhere where it is "off"."""
    place = os.environ.get("VECTORFIT_CACHE", str(Path.home() / ".cache" / "vectorfit"))
    return None if place == "off" else Path(place) / "factors"


def factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`decompose(weight)`, from the disk where it was done before.

    Several processes may share the folder: entries are written aside and renamed, and equal weights give equal factors.

    Raises:
        VectorFitError: as `decompose` does. A folder that cannot be read or written is no error: it is done again.
    """
    place = folder()
    if place is None or weight.is_meta or weight.ndim != 2 or min(weight.shape) < SMALLEST:
        return decompose(weight)
    content = weight.detach().float().cpu().contiguous()
    key = hashlib.sha256(f"{RECIPE} {tuple(content.shape)}".encode() + content.numpy().tobytes()).hexdigest()
    path = place / f"{key}.safetensors"
    kept = _read(path, weight)
    if kept is not None:
        return kept
    made = decompose(weight)
    _write(path, dict(zip(("U", "sigma", "Vh"), made, strict=True)))
    return made


def _read(path: Path, weight: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """An entry that is whole and truly the weight's, or None."""
    try:
        kept = load_file(path)
        U, sigma, Vh = (kept[name].to(weight.device) for name in ("U", "sigma", "Vh"))
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
