"""What each command of the evaluator does with its flags."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training.runs import RunFolder

from . import comparison, generation, protocols, report, scoring, selection, selfcheck
from .collection import FACTS, Subject, gather
from .embeddings import embed_files
from .encoders import Encoders
from .intervals import PERCENT


def _encoders(flags: argparse.Namespace, protocol: protocols.Protocol) -> Encoders:
    device = flags.device or str(PartialState().device)
    return Encoders.load(protocol, flags.dino_weights, flags.clip_weights, device)


def generate_command(flags: argparse.Namespace) -> None:
    if flags.images_per_prompt < 1:
        raise VectorFitError(f"--images_per_prompt: got {flags.images_per_prompt}, expected at least 1")
    names = [generation.name_of(run) for run in flags.runs]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if flags.out and duplicate:
        raise VectorFitError(f"--out {flags.out}: several runs are of {duplicate}; run each one with its own --out")
    for run, name in zip(flags.runs, names, strict=True):
        out = flags.out / name if flags.out and len(flags.runs) > 1 else flags.out
        options = {"images_per_prompt": flags.images_per_prompt, "seed": flags.seed, "class_images": flags.class_images}
        task = generation.task_of(run, out, flags.prompts, **options)
        count = generation.generate(task, flags.base_model)
        PartialState().print(f"{task.out}  {count} generated")


def _facts(subjects: Sequence[Subject]) -> dict[str, object]:
    """The means of the facts of the subjects' runs, and their method.

    Raises:
        VectorFitError: the runs used different methods, whose scores do not belong in one result.
    """
    files = [_folder_of(subject) / FACTS for subject in subjects]
    facts_of_runs = [json.loads(file.read_text()) for file in files if file.exists()]
    facts: dict[str, object] = {}
    for name in ("parameters", "bytes", "seconds", "memory"):
        values = [of_run[name] for of_run in facts_of_runs if name in of_run]
        if values:
            facts[name] = sum(values) / len(values)
    methods = sorted({of_run["method"] for of_run in facts_of_runs if "method" in of_run})
    if len(methods) > 1:
        raise VectorFitError(f"--generated: trainings with {' and '.join(methods)}; score each method separately")
    return facts | ({"method": methods[0]} if methods else {})


def _folder_of(subject: Subject) -> Path:
    """The folder that the file names of a subject's entries are relative to."""
    path, entry = subject.pictures[0]
    return Path(str(path).removesuffix(entry.file))


def _with_paths(subject: Subject, scores: dict, result: Path) -> dict:
    """Scores with the paths of the images, relative to the result, so that a report can show them."""
    folder = result.parent.resolve()
    return {
        **scores,
        "folder": os.path.relpath(_folder_of(subject).resolve(), folder),
        "reference_files": [os.path.relpath(path.resolve(), folder) for path in subject.references],
    }


def _embed_in_parallel(subjects: Sequence[Subject], encoders: Encoders) -> None:
    """Each process embeds its share of the images into the cache, from which the main process reads them."""
    state = PartialState()
    paths = [path for subject in subjects for path in [*(p for p, _ in subject.pictures), *subject.references]]
    if state.num_processes > 1:
        with state.split_between_processes(paths) as share:
            for encoder in (encoders.dino, encoders.clip):
                if share:
                    embed_files(encoder, share)
        state.wait_for_everyone()


def score_command(flags: argparse.Namespace) -> None:
    protocol = protocols.named(flags.protocol, with_token=flags.with_token)
    subjects = gather(flags.generated, flags.reference, flags.prompts, allow_missing=flags.allow_missing)
    facts = _facts(subjects)
    encoders = _encoders(flags, protocol)
    _embed_in_parallel(subjects, encoders)
    if not PartialState().is_main_process:
        return
    out = flags.out or flags.generated[0] / "scores.json"
    scores = {s.name: scoring.score_subject(s, encoders, protocol, progress=sys.stderr.isatty()) for s in subjects}
    method = flags.method or str(facts.pop("method", flags.generated[0].resolve().name))
    facts.pop("method", None)
    with_paths = {s.name: _with_paths(s, scores[s.name], out) for s in subjects}
    result = scoring.result_of(
        with_paths, protocol, encoders, method=method, facts=facts, allow_missing=flags.allow_missing
    )
    scoring.write(result, out)
    if flags.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    for note in result["deviations"]:
        print(f"note: {note}")
    for kind, label in result["labels"].items():
        score = result["overall"].get(kind)
        if score is not None:
            print(f"{label:16} {_score_line(score, kind, result['overall'])}")
    print(out)


def _score_line(score: dict, kind: str, overall: dict) -> str:
    """A score with its interval, and the two that it is read between: the photos' own, and the base's."""
    line = f"{score['mean']:.4f}  {PERCENT} {score['low']:.4f} to {score['high']:.4f}  n {score['n']}"
    for row in ("photos", "base"):
        between = overall.get(row, {}).get(kind)
        line += "" if between is None else f"  {row} {between:.4f}"
    return line


def report_command(flags: argparse.Namespace) -> None:
    results = [scoring.read(path) for path in flags.results]
    for path in report.write(results, [path.parent for path in flags.results], flags.out, flags.title):
        print(path)


def compare_command(flags: argparse.Namespace) -> None:
    differences = comparison.compare(scoring.read(flags.first), scoring.read(flags.second))
    print(json.dumps(differences, indent=1) if flags.json else comparison.table(differences))


def select_command(flags: argparse.Namespace) -> None:
    run = RunFolder(flags.run)
    (first, *_) = selection.candidates(run, flags.strengths)
    starter = vf.read_metadata(first.file)["vectorfit.base_model"] == "starter"
    protocol = protocols.named(flags.protocol or ("starter" if starter else protocols.USUAL))
    try:
        encoders = _encoders(flags, protocol)
    except VectorFitError as error:
        raise VectorFitError(f"{run.path}: nothing is selected, all stays as it is. {error}") from error
    options = {"reference": flags.reference, "strengths": flags.strengths, "base_model": flags.base_model}
    device, progress = flags.device or str(PartialState().device), sys.stderr.isatty()
    result = selection.select(run, encoders, protocol, **options, device=device, progress=progress)
    picked = result["picked"]
    print(f"{'step':>8} {'strength':>8} {'likeness':>8} {'prompt':>8} {'class':>8} {'balance':>8}   by {protocol.name}")
    for scores in result["candidates"]:
        parts = (scores[name] for name in ("likeness", "prompt", "cls", "balance"))
        numbers = " ".join(f"{'-' if part is None else format(part, '.3f'):>8}" for part in parts)
        mark = "  picked" if all(scores[name] == picked[name] for name in picked) else ""
        print(f"{scores['step']:8} {scores['strength']:8g} {numbers}{mark}")
    print(f"rule     {result['rule']}")
    print(f"picture  {run.path / selection.FOLDER / 'trade_off.png'}")
    if flags.dry_run:
        print(f"subject  {run.vectors} stays as it is")
    elif selection.apply(run, **picked):
        kept = run.path / selection.FOLDER / selection.BEFORE
        print(f"subject  {run.vectors} is now step {picked['step']} at strength {picked['strength']:g}; before: {kept}")
    else:
        print(f"subject  {run.vectors} is that already")


def selfcheck_command(flags: argparse.Namespace) -> None:
    protocol = protocols.named(flags.protocol)
    folder = flags.data or selfcheck.default_folder(protocol)
    if folder is None:
        raise VectorFitError("--data: missing; expected DreamBench's dataset folder (github.com/google/dreambooth)")
    values = selfcheck.selfcheck(protocol, _encoders(flags, protocol), folder, progress=sys.stderr.isatty())
    rows = [values[kind] for kind in ("dino", "clip_i")]
    if flags.json:
        print(json.dumps(values, indent=1))
    else:
        print(f"{values['protocol']}, {values['subjects']} subjects")
        for kind, row in zip(("dino", "clip_i"), rows, strict=True):
            print(f"{kind:8} with self-pairs {row['with_self']:.4f}, without {row['without_self']:.4f}{_verdict(row)}")
    if any(row["expected"] is not None and not row["near"] for row in rows):
        raise SystemExit(1)


def _verdict(row: dict) -> str:
    if row["expected"] is None:
        return ""
    return f"  expected {row['expected']:.3f}: {'near' if row['near'] else 'NOT near'}"


COMMANDS = {
    "generate": generate_command,
    "score": score_command,
    "report": report_command,
    "compare": compare_command,
    "select": select_command,
    "selfcheck": selfcheck_command,
}
