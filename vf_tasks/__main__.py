"""`python -m vf_tasks RECIPE` trains and scores; `python -m vf_tasks compare RUNS...` compares."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from vectorfit import VectorFitError
from vf_training import command_line, methods
from vf_training.command_line import Parser, add_options, values_of
from vf_training.commands import status_of
from vf_training.problems import Problems

from . import recipe as recipes
from .recipe import Recipe
from .run_options import Options

PROG = "python -m vf_tasks"
EXAMPLES = (
    "{prog} cola --tiny",
    "{prog} cola --method lora --seed 1",
    "{prog} cola --help   # with the recipe's values as defaults",
    "{prog} compare runs/tasks/cola --output_dir comparison",
)


def parser(recipe: Recipe | None = None, prog: str = PROG) -> Parser:
    """The command line of one run; --help shows the values of the recipe."""
    about = f"{__doc__} Recipes: {', '.join(recipes.names())}."
    command = Parser(prog, description=about, examples=EXAMPLES)
    command.add_argument("recipe", metavar="RECIPE", help="the data set's name, or compare")
    command.add_argument("--model", help="a hub id or a folder, instead of the recipe's")
    command.add_argument("--print_config", action="store_true", help="print all settings as JSON, then stop")
    command.add_argument(
        "--rates",
        default="auto",
        metavar="auto|tuned|paper",
        help="whose rates: the paper's for the recipe's model; with --model ours, where a sweep of ours found them",
    )
    add_options(command, Options)
    add_options(command, Recipe, recipe)
    return command


def _settings(flags: dict[str, Any], problems: Problems) -> tuple[Recipe, Options] | None:
    """The recipe and the options that flags give. What is wrong with them is noted."""
    recipe, options = None, Options()
    changes = values_of(Recipe, flags, problems)
    with problems.noting():
        options = Options(**values_of(Options, flags, problems))
    with problems.noting():
        recipe = recipes.read(flags["recipe"])
        rates = recipe.rates(options.method, flags["model"], flags["rates"])
        if "learning_rate" in changes:  # alone it is the paper's one rate
            rates.pop("bias_lr", None)
        if changes.get("bias_lr") and not methods.find(options.method).trains_biases:
            raise VectorFitError(f"--bias_lr: {options.method} trains no bias vectors; leave it out")
        tiny = recipes.TINY if options.tiny else {}
        model = {"models": (flags["model"],)} if flags["model"] else {}
        recipe = recipe.changed(**{**rates, **tiny, **changes, **model})
    return None if recipe is None else (recipe, options)


def _train(arguments: Sequence[str], prog: str) -> None:
    problems, known = Problems(), arguments[:1] and arguments[0] in recipes.names()
    flags = command_line.parse(parser(recipes.read(arguments[0]) if known else None, prog), arguments, problems)
    settings = _settings(flags, problems) if flags else None
    problems.raise_all()
    assert settings is not None
    recipe, options = settings
    if flags["print_config"]:
        print(json.dumps({"recipe": vars(recipe), "options": vars(options)}, indent=1))
        return

    from accelerate import PartialState
    from transformers.utils import logging

    from .run import run

    logging.set_verbosity_error()  # neither a new head nor the time to load weights is worth a line here
    logging.disable_progress_bar()
    result = run(recipe, options)
    if not PartialState().is_main_process:
        return
    for name, value in result["scores"].items():
        print(f"{name:20} {value:.2f}")
    print(f"{'parameters':20} {result['parameters']:,} ({result['percent_parameters']:.4f} %)")


def compare_parser(prog: str = PROG) -> Parser:
    """The command line of a comparison."""
    command = Parser(f"{prog} compare", description="Means, spreads and figures of runs.")
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of them")
    command.add_argument("--output_dir", default="comparison", help="the folder for table and figures")
    return command


def _compare(arguments: Sequence[str], prog: str) -> None:
    flags = command_line.read(compare_parser(prog), arguments)
    from .compare import compare

    for path in compare(flags.runs, flags.output_dir):
        print(path)


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    compares = given[:1] == ["compare"]

    def command() -> None:
        if compares:
            _compare(given[1:], prog)
        else:
            _train(given, prog)

    return status_of(command, prefix="vf_tasks", interrupted="the same command resumes from the last checkpoint")


def run(prog: str = PROG) -> None:
    """The console script."""
    sys.exit(main(prog=prog))


if __name__ == "__main__":
    run()
