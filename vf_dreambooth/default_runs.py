"""The run folder that a command line means: a named one, or runs/FOLDER after the photos, numbered from the second."""

import re
from pathlib import Path

from vectorfit import VectorFitError
from vf_training.runs import RunFolder


def free_folder(folder: Path) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3, ... that does not exist: a run never overwrites another."""
    number, first = 2, folder
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def newest_run(photos: Path) -> RunFolder | None:
    """The newest run in runs/ that was named after this folder of photos, as `free_folder` names them."""
    name = re.escape(photos.resolve().name)
    runs = [RunFolder(path) for path in Path("runs").glob("*") if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    started = [run for run in runs if run.config.exists()]
    return max(started, key=lambda run: run.config.stat().st_mtime_ns, default=None)


def run_of(requested: str) -> RunFolder:
    """The run folder that a path to a run or to one of its checkpoints lies in.

    Raises:
        VectorFitError: it is neither.
    """
    path = Path(requested)
    for folder in (path, path.parent.parent):
        if RunFolder(folder).config.exists():
            return RunFolder(folder)
    raise VectorFitError(
        f"--resume_from_checkpoint: {requested} is neither a run folder nor a checkpoint in one; "
        "expected latest or such a folder"
    )
