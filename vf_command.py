"""`vectorfit COMMAND ...`: every command line of the project under one name. A command is loaded when it is called."""

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

import vectorfit
from vf_training.command_line import did_you_mean

PACKAGE = "vectorfit"
HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Command:
    """A command line: the module whose `run` it is, the extras of which one must be installed, and what it is for."""

    module: str
    extras: tuple[str, ...]
    purpose: str
    keeps_its_name: bool = False  # analyze is a command of its module already


COMMANDS = {
    "train": Command("vf_dreambooth.cli", ("dreambooth",), "photos in, a subject file out"),
    "generate": Command("vf_dreambooth.generate", ("dreambooth",), "pictures of a trained subject"),
    "eval": Command("vf_eval.__main__", ("eval",), "DINO, CLIP-I and CLIP-T of a subject; the best checkpoint"),
    "export": Command("vf_dreambooth.export", ("dreambooth",), "a subject as LoRA, exact difference or pipeline"),
    "app": Command("vf_app.command", ("app",), "the page in the browser"),
    "tasks": Command("vf_tasks.__main__", ("tasks",), "the paper's language and vision tasks"),
    "analyze": Command("vf_training.__main__", ("dreambooth", "tasks"), "figures of what a training changed", True),
}


def usage() -> str:
    """What `vectorfit --help` prints."""
    rows = "\n".join(f"  {name:10}{command.purpose}" for name, command in COMMANDS.items())
    return (
        f"usage: vectorfit COMMAND ...\n\n{rows}\n\n"
        "vectorfit COMMAND --help lists its flags. vectorfit --version prints the version.\n\n"
        "examples:\n"
        "  vectorfit train --instance_dir dog/\n"
        '  vectorfit generate --vectors runs/dog --prompt "a photo of sks dog in the snow" --compare\n'
        "  vectorfit app"
    )


def needed(extra: str) -> Iterator[str]:
    """The distributions that an extra installs, by the metadata of the installed package."""
    for requirement in metadata.requires(PACKAGE) or ():
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", requirement):
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            nested = re.match(r"[\w.-]+\[([\w, -]+)\]", requirement)
            if name != PACKAGE:
                yield name
            elif nested:
                for other in nested[1].split(","):
                    yield from needed(other.strip())


def missing(extra: str) -> list[str]:
    """The distributions of an extra that are not installed."""
    absent = []
    for name in needed(extra):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return absent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in HELP:
        print(usage())
        return 0
    name, rest = given[0], given[1:]
    if name == "--version":
        print(f"vectorfit {vectorfit.__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"expected one of {', '.join(COMMANDS)}"
        print(f"vectorfit: unknown command {name}; {hint}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    absent = {extra: missing(extra) for extra in command.extras}
    if all(absent.values()) and not HELP & set(rest):
        extra = command.extras[0]
        more = f" and {len(absent[extra]) - 3} more" if len(absent[extra]) > 3 else ""
        wanted = f"pip install '{PACKAGE}[{extra}]' installs {', '.join(absent[extra][:3])}{more}"
        print(f"vectorfit {name}: the extra {extra} is not installed; {wanted}", file=sys.stderr)
        return 2
    prog = "vectorfit" if command.keeps_its_name else f"vectorfit {name}"
    sys.argv = [prog, *([name] if command.keeps_its_name else []), *rest]
    importlib.import_module(command.module).run(prog)
    return 0


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
