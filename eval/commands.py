"""What each command of the evaluator does with its flags."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training.fleet import raise_failed, summary
from vf_training.runs import RunFolder

from . import comparison, fleet, generation, protocols, report, scoring, selection, selfcheck
from .collection import Subject, gather, mean_facts
from .embeddings import embed_files
from .encoders import Encoders
from .intervals import PERCENT


def _encoders(flags: argparse.Namespace, protocol: protocols.Protocol) -> Encoders:
    device = flags.device or str(PartialState().device)
    return Encoders.load(protocol, flags.dino_weights, flags.clip_weights, device)


def _require_images(flags: argparse.Namespace) -> None:
    if flags.images_per_prompt < 1:
        raise VectorFitError(f"--images_per_prompt: got {flags.images_per_prompt}, expected at least 1")


def generate_command(flags: argparse.Namespace) -> None:
    _require_images(flags)
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


def _with_paths(subject: Subject, scores: dict, result: Path) -> dict:
    """Scores with the paths of the images, relative to the result, so that a report can show them."""
    folder = result.parent.resolve()
    return {
        **scores,
        "folder": os.path.relpath(subject.folder.resolve(), folder),
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
    facts = mean_facts([subject.facts() for subject in subjects])
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
    _print_result(result, str(out), as_json=flags.json)


def _print_result(result: Mapping, place: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    for note in result["deviations"]:
        print(f"note: {note}")
    for kind, label in result["labels"].items():
        score = result["overall"].get(kind)
        if score is not None:
            print(f"{label:16} {_score_line(score)}")
    print(place)


def _score_line(score: dict) -> str:
    line = f"{score['mean']:.4f}  {PERCENT} {score['low']:.4f} to {score['high']:.4f}  n {score['n']}"
    if "real" in score:
        line += f"  {score['percent_of_real']:.1f} % of the photos' score {score['real']:.3f}"
    return line


def fleet_command(flags: argparse.Namespace) -> None:
    _require_images(flags)
    own_prompts = flags.prompts not in (None, "live", "object")
    settings = fleet.Evaluation(
        protocols.named(flags.protocol, with_token=flags.with_token),
        tuple(generation.read_prompt_file(Path(flags.prompts))) if own_prompts else flags.prompts,
        **{name: getattr(flags, name) for name in fleet.FROM_FLAGS},
    )
    out = flags.out or f"{flags.runs.rstrip('/')}/scores.json"
    runs, found = fleet.score(flags.runs, flags.reference, out, settings, flags)
    print(*summary(found), sep="\n", file=sys.stderr if flags.json else sys.stdout)
    result = fleet.write_result(runs, found, out, settings)
    if result is not None:
        _print_result(result, out, as_json=flags.json)
    raise_failed(found)


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
    "fleet": fleet_command,
    "report": report_command,
    "compare": compare_command,
    "select": select_command,
    "selfcheck": selfcheck_command,
}
