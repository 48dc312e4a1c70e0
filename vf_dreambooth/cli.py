"""From a command line to settings, and from an error to one clear line."""

import argparse
import difflib
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from vectorfit import VectorFitError

from .config import TrainConfig


class _Parser(argparse.ArgumentParser):
    """An unknown flag is answered with the nearest known one, in one line and exit status 2."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = list(self._option_string_actions)
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else "; --help lists all flags"
            self.error(f"unknown argument {unknown[0]}{hint}")
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def _value_type(annotation: object) -> type:
    """The type inside `X | None`."""
    if isinstance(annotation, types.UnionType):
        return next(t for t in typing.get_args(annotation) if t is not type(None))
    assert isinstance(annotation, type)
    return annotation


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The training's flags, one per field of `TrainConfig`, in its groups."""
    parser = _Parser(prog=prog, description="DreamBooth with VectorFit.", allow_abbrev=False)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in fields(TrainConfig):
        group = groups.setdefault(item.metadata["group"], parser.add_argument_group(item.metadata["group"]))
        flags = [*item.metadata["flags"], f"--{item.name}"]
        default = None if item.default is MISSING else item.default
        text = item.metadata["help"] + (f" (default {default})" if default not in (None, "") else "")
        kind = _value_type(item.type)
        if kind is bool:
            group.add_argument(
                *flags,
                dest=item.name,
                action=argparse.BooleanOptionalAction,
                default=default,
                help=item.metadata["help"],
            )
        else:
            choices = item.metadata["choices"] or None
            group.add_argument(
                *flags, dest=item.name, type=kind, default=default, choices=choices, help=text.replace("%", "%%")
            )
    return parser


def parse(arguments: Sequence[str] | None = None, prog: str = "train_dreambooth_vectorfit.py") -> TrainConfig:
    """The settings of a command line. Raises VectorFitError for values out of range."""
    return TrainConfig(**vars(build_parser(prog).parse_args(arguments)))


def exit_clearly(main: Callable[[], None]) -> None:
    """Runs a command; what the user can mend ends it with its message and exit status 2, without a traceback."""
    diffusers_logging.disable_progress_bar()  # loading shards from disk takes no bar; downloads keep theirs
    transformers_logging.disable_progress_bar()
    try:
        main()
    except VectorFitError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
