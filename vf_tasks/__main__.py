"""`python -m vf_tasks RECIPE` trains and scores; `python -m vf_tasks compare RUNS...` compares."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from vectorfit import VectorFitError
from vf_training import methods
from vf_training.commands import status_of

from . import recipe as recipes
from .recipe import Recipe

FIXED = (
    "name",
    "kind",
    "source",
    "models",
    "train_rows",
    "metric",
    "budgets",
)  # keys that define the recipe; they are not flags


class _Parser(argparse.ArgumentParser):
    """Reports an error as one line."""

    def error(self, message: str) -> Any:
        raise VectorFitError(f"{message}; --help lists the flags")


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected true or false")
    return text.lower() == "true"


def _add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the recipe's keys", "their default is the recipe's value")
    for item in fields(Recipe):
        if item.name in FIXED:
            continue
        kind: Any = item.type
        options: dict[str, Any] = {"help": item.metadata["help"], "default": argparse.SUPPRESS}
        if kind == tuple[str, ...]:
            options |= {"nargs": "+", "metavar": "TEXT"}
        else:
            options |= {"type": _yes_or_no if kind is bool else kind, "metavar": _METAVARS[kind]}
        group.add_argument(f"--{item.name}", **options)


_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def parser() -> argparse.ArgumentParser:
    """The command line of one run."""
    command = _Parser(prog="vf_tasks", description=__doc__, epilog=f"recipes: {', '.join(recipes.names())}")
    command.add_argument("recipe", metavar="RECIPE", help="the data set's name, or compare")
    command.add_argument("--model", help="a hub id or a folder, instead of the recipe's")
    command.add_argument("--data", help="a folder, file or zip of TSV, CSV, JSONL, IDX or images; or a hub name")
    offered = [methods.find(name) for name in methods.names(methods.TASKS)]
    explained = "; ".join(f"{method.name}: {method.about}" for method in offered)
    command.add_argument("--method", default="vectorfit", metavar="NAME", help=explained)
    command.add_argument("--seed", type=int, default=0, help="seed of the new head, the order of rows, and dropout")
    command.add_argument("--output_dir", help="the run folder; by default runs/tasks/RECIPE/METHOD-SEED")
    command.add_argument("--max_train_rows", type=int, metavar="N", help="train on N rows only, always the same ones")
    command.add_argument(
        "--holdout",
        type=int,
        metavar="N",
        help="score on N training rows that are left out of the training, to choose settings",
    )
    command.add_argument(
        "--rates",
        default="auto",
        metavar="auto|tuned|paper",
        help="whose rates: the paper's for the recipe's model; with --model ours, where a sweep of ours found them",
    )
    command.add_argument("--tiny", action="store_true", help="a tiny model and a few rows, to check that it runs")
    _add_recipe_flags(command)
    return command


def _train(arguments: Sequence[str]) -> None:
    from accelerate import PartialState
    from transformers.utils import logging

    from .run import Options, run
    from .tiny import SETTINGS

    logging.set_verbosity_error()  # neither a new head nor the time to load weights is worth a line here
    logging.disable_progress_bar()
    flags = vars(parser().parse_args(arguments))
    recipe = recipes.read(flags.pop("recipe"))
    options = {item.name: flags.pop(item.name) for item in fields(Options)}
    model, wanted = flags.pop("model"), flags.pop("rates")
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    rates = recipe.rates(options["method"], model, wanted)
    if changes.get("bias_lr") and not methods.find(options["method"]).trains_biases:
        raise VectorFitError(f"bias_lr: {options['method']} trains no bias vectors; leave it out")
    if "learning_rate" in changes:  # alone it is the paper's one rate
        rates.pop("bias_lr", None)
    changes = {**rates, **changes}
    if options["tiny"]:
        changes = {**SETTINGS, **changes}
    if model:
        changes["models"] = (model,)
    result = run(recipe.changed(**changes), Options(**options))
    if not PartialState().is_main_process:
        return
    for name, value in result["scores"].items():
        print(f"{name:20} {value:.2f}")
    print(f"{'parameters':20} {result['parameters']:,} ({result['percent_parameters']:.4f} %)")


def _compare(arguments: Sequence[str]) -> None:
    from .compare import compare

    command = _Parser(prog="vf_tasks compare", description="Means, spreads and figures of runs.")
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of them")
    command.add_argument("--output_dir", default="comparison", help="the folder for table and figures")
    flags = command.parse_args(arguments)
    for path in compare(flags.runs, flags.output_dir):
        print(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    compares = given[:1] == ["compare"]

    def command() -> None:
        if compares:
            _compare(given[1:])
        else:
            _train(given)

    return status_of(command, prefix="vf_tasks", interrupted="the same command resumes from the last checkpoint")


def run() -> None:
    sys.exit(main())


if __name__ == "__main__":
    run()
