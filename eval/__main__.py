"""`python -m eval generate|score|fleet|report|compare|select|selfcheck`: subject fidelity, prompt fidelity."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vf_training.command_line import Parser, read
from vf_training.commands import exit_clearly, hide_loading_bars, part_processes
from vf_training.fleet import add_flags

from . import protocols
from .dreambench import FIRST_SEED, PROMPTS, STRENGTHS

PROG = "python -m eval"
EXAMPLES = (
    "{prog} generate runs/dog",
    "{prog} score --generated runs/dog/evaluation --reference dog/",
    "{prog} fleet runs/ --reference photos/ --workers 2",
    "{prog} report runs/dog/evaluation/scores.json runs/lora/evaluation/scores.json",
)


def _protocol_flags(parser: argparse.ArgumentParser, default: str | None = protocols.USUAL) -> None:
    usual = default or f"starter on the starter, otherwise {protocols.USUAL}"
    parser.add_argument("--protocol", default=default, help=f"{', '.join(protocols.PROTOCOLS)} (default {usual})")
    parser.add_argument("--dino_weights", type=Path, help="local file of the published DINO weights")
    parser.add_argument("--clip_weights", type=Path, help="local file of the published CLIP weights")
    parser.add_argument("--device", help="default: the accelerator if there is one")


def _generation_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", help=f"{PROMPTS}; default: live for animals, otherwise object")
    parser.add_argument("--images_per_prompt", type=int, default=4, help="default 4")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="seed of the first image")
    parser.add_argument("--base_model", help="default: the base that the subject was trained on")
    parser.add_argument(
        "--no-class_images",
        dest="class_images",
        action="store_false",
        help="no images of the class, so no PRES and drift",
    )


def _score_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", help="name of the method in reports")
    parser.add_argument(
        "--with_token", action="store_true", help="compare CLIP-T with the prompt that has the unique token"
    )
    parser.add_argument(
        "--allow_missing", action="store_true", help="score the images that exist; the result lists the missing ones"
    )
    parser.add_argument("--json", action="store_true", help="print the whole result")
    _protocol_flags(parser)


def _fleet_flags(add: argparse.ArgumentParser) -> None:
    add.add_argument("runs", metavar="RUNS", help="a folder of run folders, or its URL for fsspec")
    add.add_argument(
        "--reference", required=True, metavar="PHOTOS", help="one folder of photos per subject, or its URL"
    )
    add.add_argument("--out", metavar="FILE", help="file of the result, or its URL; default: RUNS/scores.json")
    add_flags(add, "runs")
    _generation_flags(add)
    _score_flags(add)


def _select_flags(add: argparse.ArgumentParser) -> None:
    add.add_argument("run", type=Path, help="run folder")
    add.add_argument("--reference", type=Path, help="the subject's photos; default: those it was trained on")
    add.add_argument("--strengths", nargs="+", type=float, default=STRENGTHS, metavar="X", help="default 0.8 1 1.2")
    add.add_argument("--base_model", help="default: the base that the subject was trained on")
    add.add_argument("--dry_run", action="store_true", help="show the trade-off, and leave the subject file as it is")
    _protocol_flags(add, default=None)


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    parser = Parser(prog, description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("generate", help="generate images of the DreamBench prompts, or of your own")
    add.add_argument("runs", nargs="+", type=Path, help="run folders, subject files or hub ids owner/name")
    add.add_argument(
        "--out", type=Path, help="default: evaluation/ in the run folder; with several runs, one folder per run"
    )
    _generation_flags(add)
    add = commands.add_parser("score", help="DINO, CLIP-I and CLIP-T of generated images")
    add.add_argument(
        "--generated", nargs="+", required=True, type=Path, help="folders of images, or folders of such folders"
    )
    add.add_argument("--reference", type=Path, help="real images, or one folder of them per subject")
    add.add_argument("--prompts", type=Path, help="prompts by file name: JSON, or lines of file name, tab, prompt")
    add.add_argument("--out", type=Path, help="file of the result; default: scores.json in the first folder")
    _score_flags(add)
    _fleet_flags(commands.add_parser("fleet", help="generate and score many runs at once, on Ray, into one result"))
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


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> None:
    flags = read(build_parser(prog), arguments)
    from .commands import COMMANDS

    hide_loading_bars()
    COMMANDS[flags.command](flags)
    part_processes()


def run(prog: str = PROG) -> None:
    """The console script."""
    exit_clearly(partial(main, prog=prog), "the same command continues with the missing images")


if __name__ == "__main__":
    run()
