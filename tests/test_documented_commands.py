"""Every command that README and docs print: its flags exist, and it runs, or it is listed with the reason why not."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import command as app
from eval import __main__ as evaluator
from vectorfit import VectorFitError
from vf_dreambooth import cli, export, fleet, generate
from vf_tasks import __main__ as tasks
from vf_tasks import recipe as recipes
from vf_training import __main__ as training
from vf_training.command_line import read

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(?:bash|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
MODULES = {
    "train_dreambooth_vectorfit": "train",
    "train_dreambooth_vectorfit.py": "train",
    "vf_dreambooth.generate": "generate",
    "vf_dreambooth.export": "export",
    "vf_dreambooth.fleet": "fleet",
    "eval": "eval",
    "app/app.py": "app",
    "vf_tasks": "tasks",
    "vf_training": "training",
}
SCRIPTS = {"vf-app": "app", "vf-eval": "eval", "vf-generate": "generate", "vf-export": "export", "vf-tasks": "tasks"}
# Why a command is not run: what it is known by (a pattern), and the reason. Its flags are checked all the same.
NOT_RUN = {
    r"^pip install\b": "installs packages; tests/test_packaging.py builds and tries the wheel",
    r"^docker\b": "needs a builder of images",
    r"^make\b": "a target of the Makefile, whose commands are run here or are the tests themselves",
    "CompVis/": "needs the hub",
    "owner/name": "needs the hub",
    r"^vectorfit tasks cola\b": "needs the hub",
    r"-m vf_dreambooth\.fleet\b": "needs Ray; tests/vf_dreambooth/test_fleet.py runs a fleet",
    r"^vectorfit eval fleet\b": "needs Ray; tests/eval/test_fleet.py scores a fleet",
    "--quantise": "needs torchao; tests/vf_tasks/test_quantisation.py trains on quantised bases",
    "glue/CoLA": "needs GLUE's files and a pretrained model",
    r"^vectorfit app\b": "serves until it is stopped; tests/app/test_browser.py serves and uses the page",
    r"^accelerate launch --num_processes 2\b": "needs two GPUs; on CPUs accelerate starts one process",
}
# What a command is shortened by, so that it ends soon: by its name, and for eval by its sub-command.
SHORTER = {
    "train": "--base_model starter --max_train_steps 4 --num_class_images 2 --num_validation_images 0",
    "generate": "--num 1 --num_inference_steps 2",
    "eval generate": "--images_per_prompt 1",
}
SUBPROCESS = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}


@dataclass(frozen=True)
class Documented:
    """A command of a page: the line, and what of it is ours (the name of one of our command lines, its arguments)."""

    page: str
    line: str
    name: str
    arguments: tuple[str, ...]
    launcher: tuple[str, ...] = ()  # the arguments of accelerate launch or torchrun

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def _after_launcher(words: list[str]) -> tuple[str, list[str], list[str]]:
    """What a launcher starts, its arguments, and the launcher's own."""
    if "-m" in words:
        at = words.index("-m")
        return words[at + 1], words[at + 2 :], words[:at]
    at = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return words[at], words[at + 1 :], words[:at]


def parsed(page: str, line: str) -> Documented:
    words, launcher = shlex.split(line, comments=True), []
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, rest = words[0], words[1:]
    if program == "vectorfit":
        name, rest = rest[0], rest[1:]
        name, rest = ("training", ["analyze", *rest]) if name == "analyze" else (name, rest)
    elif program in SCRIPTS:
        name = SCRIPTS[program]
    elif program in ("accelerate", "torchrun", "python"):
        target, arguments, launcher = _after_launcher(rest[1:] if program == "accelerate" else rest)
        name, rest = MODULES.get(target, target), arguments
    else:
        name = program
    return Documented(page, " ".join(line.split()), name, tuple(rest), (program, *launcher) if launcher else ())


def commands_of(page: str, text: str) -> list[Documented]:
    lines = [line for block in BLOCK.findall(text) for line in re.sub(r"\\\n", " ", block).splitlines()]
    return [parsed(page, line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")]


COMMANDS = list(
    {
        each.line: each
        for page in reversed(PAGES)  # the first page that has it
        for each in commands_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    }.values()
)


def check_flags(command: Documented) -> None:
    """Reads the command line with the program's own parser. Raises for what it does not know."""
    arguments = list(command.arguments)
    if command.name == "tasks":
        known = arguments[0] in recipes.names()
        compares = arguments[0] == "compare"
        parser = tasks.compare_parser() if compares else tasks.parser(recipes.read(arguments[0]) if known else None)
        read(parser, arguments[1:] if compares else arguments)
    elif command.name == "fleet":
        at = arguments.index("--")
        read(fleet.parser(), arguments[:at])
        read(cli.build_parser(), arguments[at + 1 :])
    elif command.name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif command.name == "docker":
        named = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--file"]
        assert all((ROOT / name).exists() for name in named)
    elif command.name.startswith(("benchmarks.", "starter.")):
        source = (ROOT / command.name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in arguments if word.startswith("--"))
    elif command.name in PARSERS:
        read(PARSERS[command.name](), arguments)
    else:
        assert command.name in ("pip", "cp", "pytest"), f"{command}: no test knows how to check this"


PARSERS = {
    "train": cli.build_parser,
    "generate": generate.build_parser,
    "export": export.build_parser,
    "eval": evaluator.build_parser,
    "app": app.build_parser,
    "training": training.build_parser,
}


def reason(command: Documented) -> str:
    """Why a command is not run, "" for one that is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command.line)), "")


def test_commands_were_found_in_many_pages():
    assert len(COMMANDS) > 40
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/get-started.md", "docs/evaluation.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_flag_of_a_documented_command_exists(command):
    check_flags(command)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.launcher], ids=str)
def test_the_launchers_know_their_own_flags(command):
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    program, *flags = command.launcher
    if program != "python":
        parser = launch_command_parser() if program == "accelerate" else get_args_parser()
        assert not parser.parse_known_args([*flags, "script.py"])[1]


@pytest.mark.parametrize(
    "line",
    [
        "vectorfit train --instance_dir dog/ --no_such_flag 1",
        "accelerate launch train_dreambooth_vectorfit.py --instance_dirs dog/",
        "vectorfit eval score --generate x",
        "vectorfit tasks cola --epoch 3",
        "python -m benchmarks.gpu --no_such_flag",
        "make no-such-target",
        "no-such-program",
    ],
)
def test_an_unknown_flag_in_a_documented_command_fails(line):
    (command,) = commands_of("page", f"```bash\n{line}  # why\n```\n")
    with pytest.raises((VectorFitError, AssertionError)):
        check_flags(command)


def test_every_reason_for_not_running_a_command_is_needed():
    for pattern in NOT_RUN:
        assert [command for command in COMMANDS if re.search(pattern, command.line)], pattern


def run(line: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs a command of a page in a folder, by this interpreter."""
    names = {"vectorfit": ["-m", "vf_command"], "python": [], "torchrun": ["-m", "torch.distributed.run"]}
    names["accelerate"] = ["-m", "accelerate.commands.accelerate_cli"]
    words = shlex.split(line, comments=True)
    words = [sys.executable, *names[words[0]], *words[1:]] if words[0] in names else words
    return subprocess.run(words, cwd=folder, env=SUBPROCESS, capture_output=True, text=True)


def shortened(command: Documented) -> str:
    """The command, made to end soon."""
    first = f"{command.name} {command.arguments[0]}" if command.name == "eval" else command.name
    return f"{command.line.partition(' #')[0]} {SHORTER.get(first, '')}"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder as a reader has it: photos, two short runs with pictures and scores, and the repository's examples."""
    folder = tmp_path_factory.mktemp("reader")
    for name, numbers in (("dog", range(5)), ("kept", range(5))):
        (folder / name).mkdir()
        for number in numbers:
            subject = "dog" if name == "dog" else "bear"
            shutil.copy(ROOT / "examples" / subject / f"{number:02d}.png", folder / name)
    for name in ("bear", "clock"):  # runs/dog is taken
        shutil.copytree(ROOT / "examples" / name, folder / "photos" / name)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "train_dreambooth_vectorfit.py").symlink_to(ROOT / "train_dreambooth_vectorfit.py")
    train = f"vectorfit train --instance_dir dog/ {SHORTER['train']} --checkpointing_steps 2 --output_dir runs/dog"
    steps = [train, "vectorfit eval generate runs/dog --images_per_prompt 1"]
    steps += ["vectorfit eval score --generated runs/dog/evaluation --protocol starter", "vectorfit tasks cola --tiny"]
    for line in steps:
        done = run(line, folder)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    shutil.copytree(folder / "runs" / "dog", folder / "runs" / "dog-2")
    (folder / "runs" / "tasks" / "cola-tiny").rename(folder / "runs" / "tasks" / "cola")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if not reason(each)], ids=str)
def test_a_documented_command_runs(command, workplace, tmp_path):
    folder = shutil.copytree(workplace, tmp_path / "reader", symlinks=True)
    done = run(shortened(command), folder)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
