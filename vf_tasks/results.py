"""The result of a run, RUN/result.json: the same form for every task and method."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_training.methods import Trained
from vf_training.runs import RunFolder

from .metrics import Scores

RESULT = "result.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Cost:
    """The cost of a run: seconds of training, the epochs in them, peak bytes of memory, bytes of its file."""

    seconds: float
    epochs: float
    memory: int
    file_bytes: int


def write_result(
    run: RunFolder,
    settings: Mapping[str, Any],
    trained: Trained,
    scores: Scores,
    cost: Cost,
    steps: int,
    train_rows: int,
) -> None:
    """Writes result.json. The first of `scores` is the run's score."""
    recipe = settings["recipe"]
    counts = trained.counts
    share = 100 * counts["parameters"] / counts["base_parameters"]
    metric, score = next(iter(scores.items()))
    content = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe["name"],
        "model": recipe["models"][0],
        "method": trained.method.name,
        "size": trained.size,
        "budget": recipe["budget"],
        "seed": settings["seed"],
        "tiny": settings["tiny"],
        "learning_rate": recipe["learning_rate"],
        "epochs": recipe["epochs"],
        "steps": steps,
        "train_rows": train_rows,
        "metric": metric,
        "score": score,
        "scores": scores,
        **counts,
        "percent_parameters": share,
        "denominator": "parameters of the pretrained model, without the task's head",
        "efficiency": score / share if share else None,  # Section 5: % score / % trained parameters
        "seconds": cost.seconds,
        "seconds_per_epoch": cost.seconds / cost.epochs,
        "peak_memory": cost.memory,
        "file_bytes": cost.file_bytes,
        "settings": dict(settings),
    }
    write_atomically(run.path / RESULT, (json.dumps(content, indent=2) + "\n").encode())


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by key, the recipe's among them, with lists as in JSON."""
    recipe = settings.get("recipe", {})
    both = {**recipe, **{name: value for name, value in settings.items() if name != "recipe"}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in both.items()}


def read_result(run: RunFolder) -> dict[str, Any]:
    """A run's result.json. Raises VectorFitError if it is missing or of another form."""
    file = run.path / RESULT
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VectorFitError(
            f"{run.path}: not a finished run of a task, it has no {RESULT} ({error.strerror})"
        ) from error
    except ValueError as error:
        raise VectorFitError(f"{file}: not valid JSON ({error})") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION or not content.keys() >= {"recipe", "method", "seed", "score", "scores", "settings"}:
        raise VectorFitError(
            f"{file}: has schema_version {version!r}, expected {SCHEMA_VERSION} and the keys of a task's result"
        )
    return content


def find(folders: list[str]) -> list[RunFolder]:
    """The finished runs in folders, at any depth. Raises VectorFitError if a folder has none."""
    runs: list[RunFolder] = []
    for folder in folders:
        paths = sorted(file.parent for file in Path(folder).rglob(RESULT)) if Path(folder).is_dir() else []
        if not paths:
            raise VectorFitError(f"{folder}: has no finished run of a task (no {RESULT} in it)")
        runs += [RunFolder(path) for path in paths]
    return runs
