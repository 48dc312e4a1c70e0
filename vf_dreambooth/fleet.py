"""Trains many subjects on Ray, on this machine or a cluster: `python -m vf_dreambooth.fleet photos/ --out runs/`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vectorfit import VectorFitError
from vf_training.command_line import Parser
from vf_training.commands import exit_clearly
from vf_training.fleet import Outcome, add_flags, raise_failed, require_numbers, summary, work_through
from vf_training.storage import Storage

from .fleet_worker import Subject, Worker

EXAMPLES = (
    "python -m vf_dreambooth.fleet photos/ --out runs/ -- --base_model starter",
    "python -m vf_dreambooth.fleet s3://bucket/photos --out s3://bucket/runs --address auto --gpus 0.5 --workers 16",
)


def parser() -> Parser:
    """The command's own flags; those after `--` are the training's."""
    command = Parser(
        "vf_dreambooth.fleet",
        usage="python -m vf_dreambooth.fleet PHOTOS --out RUNS [flags] [-- flags of the training]",
        description="Trains the subjects in the folders of PHOTOS, many at once, on Ray.",
        examples=EXAMPLES,
    )
    command.add_argument("photos", metavar="PHOTOS", help="a folder of subjects' folders, or its URL for fsspec")
    command.add_argument("--out", required=True, metavar="RUNS", help="the folder for the runs, or its URL")
    add_flags(command, "trainings")
    return command


def subjects_in(photos: str, out: str) -> list[Subject]:
    """The subjects in a folder of folders, by name.

    Raises:
        VectorFitError: the folder cannot be read, or has no folders.
    """
    names = Storage(photos).folders()
    if not names:
        raise VectorFitError(f"{photos}: has no folders, expected one for each subject")
    return [Subject(name, f"{photos.rstrip('/')}/{name}", f"{out.rstrip('/')}/{name}") for name in names]


def train(arguments: Any, flags: Sequence[str]) -> list[Outcome]:
    """Trains all subjects, each from its newest checkpoint where it has one.

    Raises:
        VectorFitError: something is wrong before the first begins.
    """
    require_numbers(arguments)
    subjects = subjects_in(arguments.photos, arguments.out)
    Storage(arguments.out).require_writable()
    return work_through(subjects, Worker, [list(flags)], arguments)


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if given is None else given)
    cut = words.index("--") if "--" in words else len(words)
    arguments: argparse.Namespace = parser().parse_args(words[:cut])
    found = train(arguments, words[cut + 1 :])
    print(*summary(found), sep="\n")
    raise_failed(found)


if __name__ == "__main__":
    exit_clearly(main, interrupted="the same command goes on where it stopped")
