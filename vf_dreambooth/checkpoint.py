"""Checkpoints: all that a training needs to resume as if it had never stopped."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.modules import Models
from vf_training.runs import VECTORS, RunFolder

from .optimization import Optimization
from .stopwatch import Stopwatch

STATE = "state.pt"  # beside the checkpoint's subject file


def state_of(optimization: Optimization, accelerator: Accelerator, step: int, seconds: float) -> dict[str, Any]:
    """The state after `step` updates, which took `seconds`. Random numbers need no state: seed and step give them."""
    return {
        "step": step,
        "seconds": seconds,
        "vectors": {name: vector.detach().cpu() for name, vector in optimization.vectors.items()},
        "optimizer": optimization.optimizer.state_dict(),
        "schedule": optimization.schedule.state_dict(),
        "avf": optimization.avf.state_dict() if optimization.avf else None,
        "ema": optimization.ema.state_dict() if optimization.ema else None,
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
    }


def write_state(folder: Path, state: dict[str, Any]) -> None:
    data = BytesIO()
    torch.save(state, data)
    write_atomically(folder / STATE, data.getvalue())


def restore(folder: Path, optimization: Optimization, accelerator: Accelerator, models: Models) -> tuple[int, float]:
    """Restores the state of a checkpoint; returns its step and the seconds that the run took until then.

    Raises:
        VectorFitError: the checkpoint is damaged, of another base, or of another kind of run.
    """
    if optimization.trains_vectors:
        vf.load_vectors(models, folder / VECTORS)  # verifies the base; the exact values are below
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, vector in optimization.vectors.items():
                vector.copy_(state["vectors"][name])
        optimization.optimizer.load_state_dict(state["optimizer"])
        optimization.schedule.load_state_dict(state["schedule"])
        for part, name in ((optimization.avf, "avf"), (optimization.ema, "ema"), (accelerator.scaler, "scaler")):
            if (part is None) != (state[name] is None):
                raise VectorFitError(f"{folder}: it was made {'with' if part is None else 'without'} {name}")
            if part is not None:
                part.load_state_dict(state[name])
        if optimization.ema:
            optimization.ema.to(accelerator.device)
        return int(state["step"]), float(state["seconds"])
    except VectorFitError:
        raise
    except Exception as error:  # a damaged file can fail in many ways, and torch's advice then is not for users
        raise VectorFitError(
            f"{folder / STATE}: cannot be resumed from, it is damaged ({type(error).__name__}); "
            "delete that folder to resume from the one before"
        ) from error


def resume(
    run: RunFolder,
    folder: Path | None,
    optimization: Optimization,
    accelerator: Accelerator,
    models: Models,
    stopwatch: Stopwatch,
) -> int:
    """Restores a checkpoint and returns its step. Without one, the run starts from the beginning, at step 0.

    Later checkpoints and log lines are removed: the resumed run writes them again.

    Raises:
        VectorFitError: as `restore`.
    """
    step = 0
    if folder is not None:
        step, seconds = restore(folder, optimization, accelerator, models)
        stopwatch.add(seconds)
    if accelerator.is_main_process:
        run.keep_checkpoints([kept for kept in run.checkpoints() if kept <= step])
        run.cut_log(step)
    return step


def find(run: RunFolder, requested: str) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means: "latest", the run folder, or a checkpoint's own folder.

    None if the run has no checkpoint yet: it starts from the beginning.

    Raises:
        VectorFitError: there is no such checkpoint.
    """
    existing = run.checkpoints()
    if requested == "latest" or Path(requested).resolve() == run.path.resolve():
        return existing[max(existing)] if existing else None
    if Path(requested).resolve() in [folder.resolve() for folder in existing.values()]:
        return Path(requested)
    names = ", ".join(folder.name for folder in existing.values()) or "none"
    raise VectorFitError(f"--resume_from_checkpoint: {requested} is not a checkpoint of {run.path}; it has {names}")
