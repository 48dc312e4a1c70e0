"""Embeddings of image files, cached on disk by content: each encoder embeds an image only once."""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.cache_folder import cache_folder
from vf_dreambooth.photos import open_photo

from .encoders import BATCH, Encoder

PORTION = 8 * BATCH  # images opened at a time


def _read_cached(path: Path | None) -> Tensor | None:
    if path is None or not path.exists():
        return None
    try:
        vector = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return None  # a damaged file is written again
    is_valid = vector.ndim == 1 and vector.dtype == torch.float32 and abs(float(vector.norm()) - 1) < 1e-3
    return vector if is_valid else None


def _write_cached(path: Path | None, vector: Tensor) -> None:
    if path is None:
        return
    data = BytesIO()
    np.save(data, vector.numpy(), allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data.getvalue())
    except (OSError, VectorFitError):
        return  # a full disk only costs time


def embed_files(encoder: Encoder, paths: Sequence[Path], *, progress: str = "") -> Tensor:
    """Unit embeddings [n, d] of image files, in their order.

    Raises:
        VectorFitError: a file cannot be read as an image.
    """
    cache = cache_folder("embeddings")
    names = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    files = [None if cache is None else cache / encoder.key / name[:2] / f"{name}.npy" for name in names]
    known = {
        name: vector for name, file in zip(names, files, strict=True) if (vector := _read_cached(file)) is not None
    }
    missing = {name: (path, file) for name, path, file in zip(names, paths, files, strict=True) if name not in known}
    todo = list(missing.items())
    for start in tqdm(range(0, len(todo), PORTION), desc=progress or None, disable=not progress, unit="batch"):
        portion = todo[start : start + PORTION]
        vectors = encoder.images([open_photo(path) for _, (path, _) in portion])
        for (name, (_, file)), vector in zip(portion, vectors, strict=True):
            known[name] = vector.clone()
            _write_cached(file, vector)
    return torch.stack([known[name] for name in names])
