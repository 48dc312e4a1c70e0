"""From declared settings to a command line, and back."""

import subprocess
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest

from vectorfit import VectorFitError
from vf_training.command_line import Parser, add_options, did_you_mean, options_of, parse, read, values_of
from vf_training.options import option
from vf_training.problems import Problems

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "gradio", "datasets", "timm", "open_clip")
COMMANDS = {  # what a console script, or python -m, starts
    "vf_dreambooth.cli:run": (),
    "vf_dreambooth.generate:run": (),
    "vf_dreambooth.export:run": (),
    "vf_tasks.__main__:run": (),
    "vf_tasks.__main__:run compare": ("compare",),
    "vf_training.__main__:run": (),
    "eval.__main__:run": (),
    "eval.__main__:run score": ("score",),
    "app.command:run": (),
}
SECONDS = 1.5  # of the processor


@dataclass(frozen=True)
class Settings:
    kind: str = option(MISSING, "what it is", group="")
    size: int = option(8, "how large, in % of the whole", group="shape")
    rate: float | None = option(None, "how fast", group="pace", flags=("--lr", "--rate"), inferred="0.1 for some")
    words: tuple[str, ...] = option((), "what to say", group="shape")
    mode: str = option("slow", "how", group="pace", choices=("slow", "fast"))
    quiet: bool = option(False, "say nothing", group="pace")
    careful: bool = option(True, "look first", group="pace")


@pytest.fixture
def parser():
    parser = Parser("program", examples=("program --size 3",))
    parser.add_argument("--folder")
    add_options(parser, Settings)
    return parser


def test_help_has_groups_defaults_and_examples(parser):
    text = " ".join(parser.format_help().split())
    assert "shape: --size N how large, in % of the whole (default 8) --words TEXT [TEXT ...] what to say" in text
    assert "--lr X, --rate X how fast (default 0.1 for some)" in text
    assert "--mode {slow,fast} how (default slow)" in text
    assert "--quiet, --no-quiet say nothing --careful, --no-careful look first (default on)" in text
    assert parser.format_help().endswith("examples:\n  program --size 3\n")
    assert "--kind" not in text
    assert "kind" not in {item.name for item in options_of(Settings)}


def test_help_shows_the_values_of_an_instance():
    parser = Parser("program")
    add_options(parser, Settings, Settings(size=9, words=("a", "b"), kind="x"))
    assert "(default 9)" in parser.format_help()
    assert "(default a b)" in parser.format_help()


def test_values_have_the_types_of_their_settings(parser):
    problems = Problems()
    flags = parse(parser, "--size 3 --rate 0.5 --words a b --no-quiet --mode fast".split(), problems)
    values = values_of(Settings, flags, problems)
    assert values == {"size": 3, "rate": 0.5, "words": ("a", "b"), "quiet": False, "mode": "fast"}
    assert not problems.messages


def test_all_that_is_wrong_is_noted(parser, tmp_path):
    problems = Problems()
    given = ["--size", "x", "--rate", "y", "--sizes", "3", "--colour=red", "--epochs", "5", str(tmp_path), "odd"]
    flags = parse(parser, given, problems, {"--epochs": "count steps"}, "--folder")
    values_of(Settings, flags, problems)
    assert problems.messages == [
        "unknown argument --sizes; did you mean --size?",
        "unknown argument --colour; --help lists all flags",
        "unknown argument --epochs; count steps",
        f"unknown argument {tmp_path}; did you mean --folder {tmp_path}?",
        "unknown argument odd; --help lists all flags",
        "--size: got 'x', expected a whole number",
        "--rate: got 'y', expected a number",
    ]


def test_a_flag_without_its_value_is_noted(parser):
    with pytest.raises(VectorFitError, match="argument --size: expected one argument; --help lists the flags"):
        read(parser, ["--size"])


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--learning_rates", "did you mean --learning_rate?"),
        ("--lerning_rate", "did you mean --learning_rate?"),
        ("--num_epochs", ""),  # 0.67 near --num_images, which is something else
        ("--lr", ""),
    ],
)
def test_only_near_names_are_suggested(word, hint):
    assert did_you_mean(word, ["--learning_rate", "--num_images", "--learning"]) == hint


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_before_anything_heavy_is_loaded(command):
    place, arguments = command.partition(" ")[0], COMMANDS[command]
    code = f"""
import pkgutil, sys, time
sys.argv = ["x", *{arguments!r}, "--help"]
try:
    pkgutil.resolve_name({place!r})()
except SystemExit as ended:
    print(ended.code, file=sys.stderr)
print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
print(time.process_time(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    status, heavy, seconds = done.stderr.splitlines()[-3:]
    assert status in ("0", "None")
    assert not heavy
    assert float(seconds) < SECONDS
    assert "usage: " in done.stdout


def test_help_of_the_training_script_comes_before_anything_heavy_is_loaded():
    command = [sys.executable, "-X", "importtime", "train_dreambooth_vectorfit.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & set(HEAVY)
    assert "--instance_dir" in done.stdout
