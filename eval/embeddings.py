"""Embeddings of picture files, kept on disk by their content: a picture is embedded once by each encoder."""

import hashlib
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_dreambooth.photos import open_photo

from .encoders import BATCH, Encoder

PORTION = 8 * BATCH  # pictures opened at a time


def folder() -> Path | None:
    """Where embeddings are kept: in VECTORFIT_CACHE, by default ~/.cache/vectorfit; nowhere where it is "off"."""
    place = os.environ.get("VECTORFIT_CACHE", str(Path.home() / ".cache" / "vectorfit"))
    return None if place == "off" else Path(place) / "embeddings"


def _kept(path: Path | None) -> Tensor | None:
    if path is None or not path.exists():
        return None
    try:
        vector = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError):
        return None  # damaged: embedded again
    whole = vector.ndim == 1 and vector.dtype == torch.float32 and abs(float(vector.norm()) - 1) < 1e-3
    return vector if whole else None


def _keep(path: Path | None, vector: Tensor) -> None:
    if path is None:
        return
    data = BytesIO()
    np.save(data, vector.numpy(), allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data.getvalue())
    except (OSError, VectorFitError):
        return  # a full disk costs time, not the scores


def embed_files(encoder: Encoder, paths: Sequence[Path], *, progress: str = "") -> Tensor:
    """Unit embeddings [n, d] of picture files, in their order.

    Raises:
        VectorFitError: a file cannot be read as a picture.
    """
    place = folder()
    names = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    files = [None if place is None else place / encoder.key / name[:2] / f"{name}.npy" for name in names]
    known = {name: vector for name, file in zip(names, files, strict=True) if (vector := _kept(file)) is not None}
    missing = {name: (path, file) for name, path, file in zip(names, paths, files, strict=True) if name not in known}
    todo = list(missing.items())
    for start in tqdm(range(0, len(todo), PORTION), desc=progress or None, disable=not progress, unit="batch"):
        portion = todo[start : start + PORTION]
        vectors = encoder.images([open_photo(path) for _, (path, _) in portion])
        for (name, (_, file)), vector in zip(portion, vectors, strict=True):
            known[name] = vector.clone()
            _keep(file, vector)
    return torch.stack([known[name] for name in names])
