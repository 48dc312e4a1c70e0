"""Real pictures against real ones: whether this installation measures what the papers measured."""

from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_dreambooth.base_models import starter_folder
from vf_dreambooth.photos import photo_paths

from .embeddings import embed_files
from .encoders import Encoders
from .protocols import Protocol
from .scoring import ceiling

# Table 1 of the DreamBooth paper, which does not say whether pictures were compared with themselves; and the starter's
# own values on examples/.
EXPECTED = {"dreambench-2023": {"dino": 0.774, "clip_i": 0.885}, "starter": {"dino": 0.9338, "clip_i": 0.6294}}
TOLERANCE = {"dreambench-2023": 0.01, "starter": 0.001}


def default_folder(protocol: Protocol) -> Path | None:
    """The subjects that come with the starter, in a checkout."""
    folder = starter_folder().parents[2] / "examples"
    return folder if protocol.name == "starter" and folder.is_dir() else None


def selfcheck(protocol: Protocol, encoders: Encoders, folder: Path, *, progress: bool = False) -> dict[str, Any]:
    """Means over the subjects of a folder of folders, with self-pairs and without, beside what is expected.

    Raises:
        VectorFitError: there are no folders of pictures.
    """
    if not folder.is_dir():
        raise VectorFitError(f"--data {folder}: no such folder; expected one folder of photos per subject")
    subjects = {f.name: photo_paths(f) for f in sorted(folder.iterdir()) if f.is_dir()}
    subjects = {name: paths for name, paths in subjects.items() if len(paths) > 1}
    if not subjects:
        raise VectorFitError(f"--data {folder}: 0 folders with two or more pictures; expected one folder per subject")
    found: dict[str, Any] = {"protocol": protocol.name, "subjects": len(subjects)}
    for kind, encoder in (("dino", encoders.dino), ("clip_i", encoders.clip)):
        whole, apart = [], []
        for name, paths in subjects.items():
            own, other = ceiling(embed_files(encoder, paths, progress=name if progress else ""))
            whole.append(own)
            apart.append(other if other is not None else own)
        expected = EXPECTED.get(protocol.name, {}).get(kind)
        values = {"with_self": sum(whole) / len(whole), "without_self": sum(apart) / len(apart)}
        near = expected is not None and min(abs(v - expected) for v in values.values()) <= TOLERANCE[protocol.name]
        found[kind] = {**{k: round(v, 4) for k, v in values.items()}, "expected": expected, "near": near}
    return found
