"""`python -m eval generate|score|report|compare|selfcheck`: how like the subject, how true to the prompt."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from vectorfit import VectorFitError
from vf_training.commands import exit_clearly, part_processes

from . import comparison, generation, protocols, report, scoring, selfcheck
from .collection import FACTS, Subject, gather
from .embeddings import embed_files
from .encoders import Encoders


def _protocol_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol", default="dreambench-2023", help=f"{', '.join(protocols.PROTOCOLS)} (default dreambench-2023)"
    )
    parser.add_argument("--dino_weights", type=Path, help="local file of the published DINO weights")
    parser.add_argument("--clip_weights", type=Path, help="local file of the published CLIP weights")
    parser.add_argument("--device", help="by default the accelerator, where there is one")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eval", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("generate", help="pictures of the DreamBench prompts, or of your own")
    add.add_argument("runs", nargs="+", type=Path, help="run folders or subject files")
    add.add_argument("--prompts", help=f"{generation.PROMPTS}; by default live for animals, object otherwise")
    add.add_argument("--images_per_prompt", type=int, default=4, help="default 4")
    add.add_argument("--seed", type=int, default=generation.FIRST_SEED, help="of the first picture")
    add.add_argument(
        "--out", type=Path, help="by default evaluation/ in the run folder; of several runs, a folder each"
    )
    add.add_argument("--base_model", help="by default the one the subject was trained on")
    add.add_argument("--no-class_images", dest="class_images", action="store_false", help="without PRES and drift")
    add = commands.add_parser("score", help="DINO, CLIP-I and CLIP-T of generated pictures")
    add.add_argument("--generated", nargs="+", required=True, type=Path, help="folders of pictures, or of such folders")
    add.add_argument("--reference", type=Path, help="real pictures, or a folder of them per subject")
    add.add_argument("--prompts", type=Path, help="prompts by file name: JSON, or lines of name, tab, prompt")
    add.add_argument("--method", help="how reports call it")
    add.add_argument("--with_token", action="store_true", help="CLIP-T against the prompt with the unique token")
    add.add_argument("--allow_missing", action="store_true", help="score what is there; the result tells what is not")
    add.add_argument("--out", type=Path, help="file of the result; by default scores.json in the first folder")
    add.add_argument("--json", action="store_true", help="print the whole result")
    _protocol_flags(add)
    add = commands.add_parser("report", help="one page of tables and pictures, and its numbers as JSON and CSV")
    add.add_argument("results", nargs="+", type=Path, help="results of score; the first is compared with the others")
    add.add_argument("--out", type=Path, default=Path("report"), help="folder (default report)")
    add.add_argument("--title", default="Subject fidelity and prompt fidelity")
    add = commands.add_parser("compare", help="paired differences of two results, with intervals and win rates")
    add.add_argument("first", type=Path)
    add.add_argument("second", type=Path)
    add.add_argument("--json", action="store_true")
    add = commands.add_parser("selfcheck", help="real pictures against real ones, beside the published values")
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
    twice = next((name for name in names if names.count(name) > 1), None)
    if flags.out and twice:
        raise VectorFitError(f"--out {flags.out}: several runs are of {twice}; give each an --out of its own")
    for run, name in zip(flags.runs, names, strict=True):
        out = flags.out / name if flags.out and len(flags.runs) > 1 else flags.out
        choices = {"images_per_prompt": flags.images_per_prompt, "seed": flags.seed, "class_images": flags.class_images}
        task = generation.task_of(run, out, flags.prompts, **choices)
        made = generation.generate(task, flags.base_model)
        PartialState().print(f"{task.out}  {made} generated")


def _facts(subjects: Sequence[Subject]) -> dict[str, object]:
    """Means of what is known of the runs behind the subjects, and their method.

    Raises:
        VectorFitError: they are of several methods, whose scores do not belong into one result.
    """
    places = [_folder_of(subject) / FACTS for subject in subjects]
    known = [json.loads(place.read_text()) for place in places if place.exists()]
    facts: dict[str, object] = {}
    for name in ("parameters", "bytes", "seconds", "memory"):
        values = [found[name] for found in known if name in found]
        if values:
            facts[name] = sum(values) / len(values)
    methods = sorted({found["method"] for found in known if "method" in found})
    if len(methods) > 1:
        raise VectorFitError(f"--generated: trainings by {' and '.join(methods)}; score each method by itself")
    return facts | ({"method": methods[0]} if methods else {})


def _folder_of(subject: Subject) -> Path:
    """The folder that the files of a subject's entries are relative to."""
    path, entry = subject.pictures[0]
    return Path(str(path).removesuffix(entry.file))


def _located(subject: Subject, scores: dict, result: Path) -> dict:
    """Scores with the places of the pictures, relative to the result: a report shows them."""
    here = result.parent.resolve()
    return {
        **scores,
        "folder": os.path.relpath(_folder_of(subject).resolve(), here),
        "reference_files": [os.path.relpath(place.resolve(), here) for place in subject.references],
    }


def _share_out(subjects: Sequence[Subject], encoders: Encoders) -> None:
    """Every process embeds its part of all pictures into the cache; the main one then finds them there."""
    state = PartialState()
    paths = [path for subject in subjects for path in [*(p for p, _ in subject.pictures), *subject.references]]
    if state.num_processes > 1:
        with state.split_between_processes(paths) as mine:
            for encoder in (encoders.dino, encoders.clip):
                if mine:
                    embed_files(encoder, mine)
        state.wait_for_everyone()


def _score(flags: argparse.Namespace) -> None:
    protocol = protocols.named(flags.protocol, with_token=flags.with_token)
    subjects = gather(flags.generated, flags.reference, flags.prompts, allow_missing=flags.allow_missing)
    facts = _facts(subjects)
    encoders = _encoders(flags, protocol)
    _share_out(subjects, encoders)
    if not PartialState().is_main_process:
        return
    out = flags.out or flags.generated[0] / "scores.json"
    scores = {s.name: scoring.score_subject(s, encoders, protocol, progress=sys.stderr.isatty()) for s in subjects}
    method = flags.method or str(facts.pop("method", flags.generated[0].resolve().name))
    facts.pop("method", None)
    located = {s.name: _located(s, scores[s.name], out) for s in subjects}
    result = scoring.result_of(
        located, protocol, encoders, method=method, facts=facts, allow_missing=flags.allow_missing
    )
    scoring.write(result, out)
    if flags.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    for note in result["deviations"]:
        print(f"note: {note}")
    for kind, label in result["labels"].items():
        found = result["overall"].get(kind)
        if found is not None:
            real = (
                f"  {found['percent_of_real']:.1f} % of the photos' own {found['real']:.3f}" if "real" in found else ""
            )
            print(
                f"{label:16} {found['mean']:.4f}  95 % {found['low']:.4f} to {found['high']:.4f}  n {found['n']}{real}"
            )
    print(out)


def _report(flags: argparse.Namespace) -> None:
    results = [scoring.read(path) for path in flags.results]
    for path in report.write(results, [path.parent for path in flags.results], flags.out, flags.title):
        print(path)


def _compare(flags: argparse.Namespace) -> None:
    found = comparison.compare(scoring.read(flags.first), scoring.read(flags.second))
    print(json.dumps(found, indent=1) if flags.json else comparison.table(found))


def _selfcheck(flags: argparse.Namespace) -> None:
    protocol = protocols.named(flags.protocol)
    folder = flags.data or selfcheck.default_folder(protocol)
    if folder is None:
        raise VectorFitError("--data: missing; expected DreamBench's dataset folder (github.com/google/dreambooth)")
    found = selfcheck.selfcheck(protocol, _encoders(flags, protocol), folder, progress=sys.stderr.isatty())
    rows = [found[kind] for kind in ("dino", "clip_i")]
    if flags.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{found['protocol']}, {found['subjects']} subjects")
        for kind, row in zip(("dino", "clip_i"), rows, strict=True):
            print(f"{kind:8} with self-pairs {row['with_self']:.4f}, without {row['without_self']:.4f}{_verdict(row)}")
    if any(row["expected"] is not None and not row["near"] for row in rows):
        raise SystemExit(1)


def _verdict(row: dict) -> str:
    if row["expected"] is None:
        return ""
    return f"  expected {row['expected']:.3f}: {'near' if row['near'] else 'NOT near'}"


COMMANDS = {"generate": _generate, "score": _score, "report": _report, "compare": _compare, "selfcheck": _selfcheck}


def main(arguments: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(arguments)
    COMMANDS[flags.command](flags)
    part_processes()


def run() -> None:
    """The console script."""
    exit_clearly(main, "the same command goes on with what is missing")


if __name__ == "__main__":
    run()
