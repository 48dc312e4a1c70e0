"""Scores many runs on Ray, on this machine or a cluster: `python -m eval fleet RUNS --reference PHOTOS`."""

import json
import posixpath
from collections.abc import Sequence
from typing import Any

from vectorfit import VectorFitError
from vf_training.fleet import Outcome, require_numbers, work_through
from vf_training.storage import Storage

from . import scoring
from .collection import EVALUATION, FACTS, mean_facts
from .fleet_worker import SCORES, Evaluation, Run, Worker
from .generation import recorded_name

# The fields of an Evaluation that are flags of the same name.
FROM_FLAGS = (
    *("images_per_prompt", "seed", "class_images", "base_model", "method", "allow_missing"),
    *("dino_weights", "clip_weights", "device"),
)


def runs_in(runs: str, photos: str) -> list[Run]:
    """The run folders in a folder, by name. Others in it, such as class images, have no config.json.

    Raises:
        VectorFitError: a folder cannot be read or has no runs, or two runs are of one subject.
    """
    runs, photos = runs.rstrip("/"), photos.rstrip("/")
    storage, of_subjects, found = Storage(runs), Storage(photos).folders(), dict[str, tuple[str, str]]()
    for name in storage.folders():
        config = storage.at(name).read("config.json")
        if config is not None:
            subject = _subject(config, name)
            if subject in found:
                raise VectorFitError(
                    f"{runs}: {found[subject][0]} and {name} are both of {subject}; score them separately"
                )
            found[subject] = name, f"{runs}/{name}"
    if not found:
        raise VectorFitError(f"{runs}: has no run folders, expected those of a fleet, each with a config.json")
    alone = len(found) == 1 and not set(found) & set(of_subjects)  # then the folder may hold its photos itself
    return [
        Run(name, subject, url, photos if alone else f"{photos}/{subject}")
        for subject, (name, url) in sorted(found.items(), key=lambda item: item[1])
    ]


def _subject(config: bytes, name: str) -> str:
    """The subject that a run records; the folder's name where it is damaged, which its worker then says."""
    try:
        return recorded_name(json.loads(config))
    except (ValueError, LookupError, TypeError):
        return name


def score(runs: str, photos: str, out: str, evaluation: Evaluation, arguments: Any) -> tuple[list[Run], list[Outcome]]:
    """Scores all runs: the runs, and how each ended.

    Raises:
        VectorFitError: something is wrong before the first begins.
    """
    require_numbers(arguments)
    wanted = runs_in(runs, photos)
    for place in (Storage(runs), _split(out)[0]):
        place.require_writable()
    return wanted, work_through(wanted, Worker, [evaluation], arguments)


def write_result(
    runs: Sequence[Run], found: Sequence[Outcome], out: str, evaluation: Evaluation
) -> dict[str, Any] | None:
    """Writes one result of the runs that did not fail, and returns it; None where all failed.

    Raises:
        VectorFitError: their results do not belong together, or the file cannot be written.
    """
    ended = {outcome.name for outcome in found if outcome.state != "failed"}
    kept = sorted((run for run in runs if run.name in ended), key=lambda run: run.subject)
    if not kept:
        return None
    folder, file = _split(out)
    result = merged(kept, folder, evaluation, missing=sorted(run.subject for run in runs if run.name not in ended))
    folder.write(file, scoring.as_bytes(result))
    return result


def _split(out: str) -> tuple[Storage, str]:
    folder, file = posixpath.split(out)
    return Storage(folder or "."), file


def merged(runs: Sequence[Run], folder: Storage, evaluation: Evaluation, missing: Sequence[str] = ()) -> dict[str, Any]:
    """The results of runs as one, as `eval score` gives it for a file in a folder, and which subjects are missing."""
    results, facts = [], []
    for run in runs:
        storage = Storage(f"{run.url}/{EVALUATION}")
        content = {name: storage.read(name) for name in (SCORES, FACTS)}
        if None in content.values():
            raise VectorFitError(f"{run.url}: its scores are gone; run the same command again")
        result, of_run = (json.loads(data) for data in content.values())
        for scores in result["subjects"].values():
            scores["folder"] = storage.seen_from(folder)
            scores["reference_files"] = [storage.at(place).seen_from(folder) for place in scores["reference_files"]]
        results.append(result)
        facts.append(of_run)
    means = mean_facts(facts)
    method = str(means.pop("method", runs[0].name))
    notes = [f"{len(missing)} of {len(runs) + len(missing)} subjects are missing: {', '.join(missing)}"]
    return scoring.merge(
        results,
        method=evaluation.method or method,
        facts=means,
        allow_missing=evaluation.allow_missing,
        more_deviations=notes if missing else [],
    )
