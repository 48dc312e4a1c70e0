"""Scores real images against each other, to check this installation against the published values."""

from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_dreambooth.base_models import starter_folder
from vf_dreambooth.photos import photo_paths

from .embeddings import embed_files
from .encoders import Encoders
from .protocols import Protocol
from .scoring import ceiling

# Table 1 of the DreamBooth paper, which does not say whether images were compared with themselves; and the starter's
# values on examples/. FILLIN
EXPECTED = {"dreambench-2023": {"dino": 0.774, "clip_i": 0.885}, "starter": {"dino": 0.0, "clip_i": 0.0}}
TOLERANCE = {"dreambench-2023": 0.01, "starter": 0.001}


def default_folder(protocol: Protocol) -> Path | None:
    """The starter's subjects, beside it in a checkout and where the wheel is installed; None for other protocols."""
    if protocol.name != "starter":
        return None
    beside = starter_folder().parents[2]
    return next((beside / name for name in ("examples", "vf_examples") if (beside / name).is_dir()), None)


def selfcheck(protocol: Protocol, encoders: Encoders, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """The means over subjects, one inner folder each, with and without self-pairs, and the expected values.

    Raises:
        VectorFitError: there are no folders of images.
    """
    if not folder.is_dir():
        raise VectorFitError(f"--data {folder}: no such folder; expected one folder of photos per subject")
    subjects = {f.name: photo_paths(f) for f in sorted(folder.iterdir()) if f.is_dir()}
    subjects = {name: paths for name, paths in subjects.items() if len(paths) > 1}
    if not subjects:
        raise VectorFitError(f"--data {folder}: 0 folders with two or more images; expected one folder per subject")
    result: dict[str, Any] = {"protocol": protocol.name, "subjects": len(subjects)}
    for kind, encoder in (("dino", encoders.dino), ("clip_i", encoders.clip)):
        with_self, without_self = [], []
        for name, paths in subjects.items():
            all_pairs, other_pairs = ceiling(embed_files(encoder, paths, progress=name if progress else ""))
            with_self.append(all_pairs)
            without_self.append(other_pairs if other_pairs is not None else all_pairs)
        expected = EXPECTED.get(protocol.name, {}).get(kind)
        values = {
            "with_self": sum(with_self) / len(with_self),
            "without_self": sum(without_self) / len(without_self),
        }
        near = expected is not None and min(abs(v - expected) for v in values.values()) <= TOLERANCE[protocol.name]
        result[kind] = {**{k: round(v, 4) for k, v in values.items()}, "expected": expected, "near": near}
    return result
