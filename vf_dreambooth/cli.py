"""Reads a command line into settings."""

import argparse
import json
import runpy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError
from vf_training import command_line
from vf_training.command_line import Parser, add_options, did_you_mean, value_type, values_of
from vf_training.options import dependents, problems_of
from vf_training.problems import Problems
from vf_training.runs import RunFolder

from .config import TrainConfig
from .default_runs import newest_run, run_of
from .settings.prior import GROUP as PRIOR

PROG = "train_dreambooth_vectorfit.py"
EXAMPLES = (
    "{prog} --instance_dir dog/",
    "{prog} --instance_dir dog/ --base_model starter --output_dir runs/dog",
    "{prog} --instance_dir dog/ --dry_run",
    "{prog} --instance_dir dog/ --print_config > dog.json",
    "{prog} --config dog.json --max_train_steps 500",
    "{prog} --resume_from_checkpoint runs/dog",
    f"accelerate launch --num_processes 2 -m {PROG.removesuffix('.py')} --instance_dir dog/",
)

# Flags of other DreamBooth scripts that do not exist here, and what to use instead.
ELSEWHERE = {
    "--num_train_epochs": "steps are counted here: --max_train_steps",
    "--validation_steps": "sample grids are made with the checkpoints: --checkpointing_steps",
    "--validation_epochs": "sample grids are made with the checkpoints: --checkpointing_steps",
    "--use_8bit_adam": "the optimizer's state is a few megabytes; leave it out",
    "--scale_lr": "give the rate itself: --learning_rate",
    "--sigma_lr": "sigma's rate is the learning rate: --learning_rate, and the biases' own --bias_lr",
    "--unet_lr": "the UNet's rate is the learning rate: --learning_rate, and the text encoder's --text_encoder_lr",
    "--rank": "VectorFit has no rank; leave it out",
    "--cache_latents": "latents are always computed once; leave it out",
    "--dataloader_num_workers": "images are encoded once, before training; leave it out",
    "--allow_tf32": "it is on; leave it out",
    "--logging_dir": "logs are in the run folder: --output_dir",
    "--prior_generation_precision": "class images use the precision of the training: --mixed_precision",
    "--enable_xformers_memory_efficient_attention": "PyTorch's own attention is used; leave it out",
    "--set_grads_to_none": "gradients are always set to None; leave it out",
    "--hub_token": "log in with 'hf auth login' or set HF_TOKEN",
    "--local_rank": "accelerate sets it; leave it out",
}


@dataclass(frozen=True)
class Command:
    """What a command line asks for."""

    config: TrainConfig
    resume_from_checkpoint: str | None = None  # "latest", a run folder, or a checkpoint in one
    dry_run: bool = False
    print_config: bool = False


def build_parser(prog: str = PROG) -> Parser:
    """The training's flags, one per field of `TrainConfig`, in its groups."""
    parser = Parser(
        prog,
        usage=f"{prog} --instance_dir DIR [further flags]",
        description="DreamBooth with VectorFit: five photos in, a subject file out.",
        examples=EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="use the settings of this RUN/config.json; flags override them")
    run.add_argument(
        "--resume_from_checkpoint",
        metavar="latest|PATH",
        help="resume from the newest checkpoint of the run that the flags name, or from this run or checkpoint",
    )
    run.add_argument(
        "--dry_run", action="store_true", help="print what would be trained and how long it would take, then stop"
    )
    run.add_argument(
        "--print_config",
        action="store_true",
        help="print all settings, also what is inferred, as a file that --config reads, then stop",
    )
    add_options(parser, TrainConfig)
    prior = next(group for group in parser._action_groups if group.title == PRIOR)
    prior.add_argument(
        "--with_prior_preservation",
        action=argparse.BooleanOptionalAction,
        help="other names of class_images and none",
    )
    return parser


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config.json, except its output folder.

    Raises:
        VectorFitError: the file cannot be read, or has an unknown setting (the message names the most similar one).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(content.get("settings", content))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VectorFitError(f"--config: {path} cannot be read ({error}); expected a run's config.json") from error
    types_of = {item.name: value_type(item) for item in fields(TrainConfig)}
    names, problems = list(types_of), []
    for name in types_of.keys() & settings.keys():
        value, kind = settings[name], types_of[name]
        fits = type(value) is kind or (kind is float and type(value) is int)
        if value is not None and not fits:
            problems.append(f"--config: {path} has {name} = {value!r}, expected a {kind.__name__}")
    for unknown in settings.keys() - set(names):
        near = did_you_mean(unknown, names)
        problems.append(f"--config: {path} has the unknown setting {unknown!r}" + (f"; {near}" if near else ""))
    if problems:
        raise VectorFitError("\n".join(sorted(problems)))
    return {name: value for name, value in settings.items() if name != "output_dir" and value is not None}


def _given(flags: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """The settings that flags give."""
    values = values_of(TrainConfig, flags, problems)
    with_prior = flags.get("with_prior_preservation")
    if with_prior is not None:
        prior = "class_images" if with_prior else "none"
        if values.get("prior", prior) != prior:
            problems.messages.append(
                f"--prior {values['prior']}: contradicts --{'' if with_prior else 'no-'}with_prior_preservation"
            )
        values["prior"] = prior
    return values


def parse(arguments: Sequence[str] | None, problems: Problems) -> Command:
    """Reads a command line. Errors are added to `problems`, and those settings keep their defaults."""
    flags = command_line.parse(build_parser(), arguments, problems, ELSEWHERE, "--instance_dir")
    resume, given, values = flags.get("resume_from_checkpoint"), _given(flags, problems), {}
    with problems.noting():
        if "config" in flags:
            recorded = read_settings(Path(flags["config"]))
            inferred_again = {
                name
                for changed in given
                for name in dependents(TrainConfig, changed)
                if given[changed] != recorded.get(changed)
            }
            values |= {name: value for name, value in recorded.items() if name not in inferred_again}
    with problems.noting():
        run = _resumed_run(resume, values | given)
        if run is not None:
            values |= read_settings(run.config) | {"output_dir": str(run.path)}
    config = _without_errors(values | given, problems)
    return Command(config, resume, flags.get("dry_run", False), flags.get("print_config", False))


def _without_errors(values: dict[str, Any], problems: Problems) -> TrainConfig:
    """The settings without the wrong ones, which are added to `problems`, so that the others can be checked too."""
    defaults, safe = {f.name: f.default for f in fields(TrainConfig)}, dict(values)
    wrong = problems_of(TrainConfig, defaults | safe)
    problems.messages += wrong.values()
    # A default used instead of a wrong value may cause a new conflict, which is not the user's error.
    while wrong:
        safe = {"instance_data_dir": "."} | {name: value for name, value in safe.items() if name not in wrong}
        wrong = problems_of(TrainConfig, defaults | safe)
    return TrainConfig(**safe)


def _resumed_run(resume: str | None, settings: dict[str, Any]) -> RunFolder | None:
    """The run folder from which a resumed run takes its settings; None if it does not exist yet."""
    if resume is None:
        return None
    if resume != "latest":
        return run_of(resume)
    if "output_dir" in settings:
        run = RunFolder(settings["output_dir"])
        return run if run.config.exists() else None
    return newest_run(Path(settings["instance_data_dir"])) if "instance_data_dir" in settings else None


def answer_help(arguments: Sequence[str] | None = None, prog: str = PROG) -> None:
    """Prints --help and ends the program, if it is asked for. What is wrong is told later, all at once."""
    with suppress(VectorFitError):
        build_parser(prog).parse_known_args(arguments)


def run(prog: str = PROG) -> None:
    """The console script: the training script, found by its name."""
    answer_help(prog=prog)
    runpy.run_module(PROG.removesuffix(".py"), run_name="__main__", alter_sys=True)
