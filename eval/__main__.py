"""`python -m eval generate|score|report|compare|select|selfcheck`: subject fidelity and prompt fidelity of images."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training.commands import exit_clearly, part_processes
from vf_training.runs import RunFolder

from . import comparison, generation, protocols, report, scoring, selection, selfcheck
from .collection import FACTS, Subject, gather
from .embeddings import embed_files
from .encoders import Encoders
from .intervals import PERCENT

USUAL = "dreambench-2023"  # protocol


def _protocol_flags(parser: argparse.ArgumentParser, default: str | None = USUAL) -> None:
    usual = default or f"starter on the starter, otherwise {USUAL}"
    parser.add_argument("--protocol", default=default, help=f"{', '.join(protocols.PROTOCOLS)} (default {usual})")
    parser.add_argument("--dino_weights", type=Path, help="local file of the published DINO weights")
    parser.add_argument("--clip_weights", type=Path, help="local file of the published CLIP weights")
    parser.add_argument("--device", help="default: the accelerator if there is one")


def _select_flags(add: argparse.ArgumentParser) -> None:
    add.add_argument("run", type=Path, help="run folder")
    add.add_argument("--reference", type=Path, help="the subject's photos; default: those it was trained on")
    add.add_argument(
        "--strengths", nargs="+", type=float, default=selection.STRENGTHS, metavar="X", help="default 0.8 1 1.2"
    )
    add.add_argument("--base_model", help="default: the base that the subject was trained on")
    add.add_argument("--dry_run", action="store_true", help="show the trade-off, and leave the subject file as it is")
    _protocol_flags(add, default=None)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eval", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("generate", help="generate images of the DreamBench prompts, or of your own")
    add.add_argument("runs", nargs="+", type=Path, help="run folders, subject files or hub ids owner/name")
    add.add_argument("--prompts", help=f"{generation.PROMPTS}; default: live for animals, otherwise object")
    add.add_argument("--images_per_prompt", type=int, default=4, help="default 4")
    add.add_argument("--seed", type=int, default=generation.FIRST_SEED, help="seed of the first image")
    add.add_argument(
        "--out", type=Path, help="default: evaluation/ in the run folder; with several runs, one folder per run"
    )
    add.add_argument("--base_model", help="default: the base that the subject was trained on")
    add.add_argument(
        "--no-class_images",
        dest="class_images",
        action="store_false",
        help="no images of the class, so no PRES and drift",
    )
    add = commands.add_parser("score", help="DINO, CLIP-I and CLIP-T of generated images")
    add.add_argument(
        "--generated", nargs="+", required=True, type=Path, help="folders of images, or folders of such folders"
    )
    add.add_argument("--reference", type=Path, help="real images, or one folder of them per subject")
    add.add_argument("--prompts", type=Path, help="prompts by file name: JSON, or lines of file name, tab, prompt")
    add.add_argument("--method", help="name of the method in reports")
    add.add_argument(
        "--with_token", action="store_true", help="compare CLIP-T with the prompt that has the unique token"
    )
    add.add_argument(
        "--allow_missing", action="store_true", help="score the images that exist; the result lists the missing ones"
    )
    add.add_argument("--out", type=Path, help="file of the result; default: scores.json in the first folder")
    add.add_argument("--json", action="store_true", help="print the whole result")
    _protocol_flags(add)
    add = commands.add_parser("report", help="one page of tables and images, and its numbers as JSON and CSV")
    add.add_argument(
        "results", nargs="+", type=Path, help="results of score; each other one is compared with the first"
    )
    add.add_argument("--out", type=Path, default=Path("report"), help="folder (default report)")
    add.add_argument("--title", default="Subject fidelity and prompt fidelity")
    add = commands.add_parser("compare", help="paired differences of two results, with intervals and win rates")
    add.add_argument("first", type=Path)
    add.add_argument("second", type=Path)
    add.add_argument("--json", action="store_true")
    _select_flags(commands.add_parser("select", help="make the best checkpoint and strength of a run its subject file"))
    add = commands.add_parser(
        "selfcheck", help="score real images against each other and compare with the published values"
    )
    add.add_argument("--data", type=Path, help="a folder of photos per subject; DreamBench's dataset/, or examples/")
    add.add_argument("--json", action="store_true")
    _protocol_flags(add)
    return parser


def _encoders(flags: argparse.Namespace, protocol: protocols.Protocol) -> Encoders:
    device = flags.device or str(PartialState().device)
    return Encoders.load(protocol, flags.dino_weights, flags.clip_weights, device)


def _generate(flags: argparse.Namespace) -> None:
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


def _score(flags: argparse.Namespace) -> None:
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
            print(f"{label:16} {_score_line(score)}")
    print(out)


def _score_line(score: dict) -> str:
    line = f"{score['mean']:.4f}  {PERCENT} {score['low']:.4f} to {score['high']:.4f}  n {score['n']}"
    if "real" in score:
        line += f"  {score['percent_of_real']:.1f} % of the photos' score {score['real']:.3f}"
    return line


def _report(flags: argparse.Namespace) -> None:
    results = [scoring.read(path) for path in flags.results]
    for path in report.write(results, [path.parent for path in flags.results], flags.out, flags.title):
        print(path)


def _compare(flags: argparse.Namespace) -> None:
    differences = comparison.compare(scoring.read(flags.first), scoring.read(flags.second))
    print(json.dumps(differences, indent=1) if flags.json else comparison.table(differences))


def _select(flags: argparse.Namespace) -> None:
    run = RunFolder(flags.run)
    (first, *_) = selection.candidates(run, flags.strengths)
    starter = vf.read_metadata(first.file)["vectorfit.base_model"] == "starter"
    protocol = protocols.named(flags.protocol or ("starter" if starter else USUAL))
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


def _selfcheck(flags: argparse.Namespace) -> None:
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


COMMANDS = {"generate": _generate, "score": _score, "report": _report, "compare": _compare}
COMMANDS |= {"select": _select, "selfcheck": _selfcheck}


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    COMMANDS[flags.command](flags)
    part_processes()


def run() -> None:
    """The console script."""
    exit_clearly(main, "the same command continues with the missing images")


if __name__ == "__main__":
    run()
