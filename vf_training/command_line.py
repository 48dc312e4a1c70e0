"""Builds a command line from declared settings, and reads it. Nothing heavy is loaded for that."""

import argparse
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn

from vectorfit import VectorFitError

from .problems import Problems

NEAR = 0.68  # how similar a word must be to be suggested, by difflib's ratio: below it, suggestions mislead
METAVARS = {int: "N", float: "X", str: "TEXT"}
EXPECTED = {int: "a whole number", float: "a number"}


class _Help(argparse.HelpFormatter):
    """Keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Takes flags by their full names, ends --help with examples, raises VectorFitError for a wrong command line.

    `{prog}` in an example is the name that the command was called by.
    """

    def __init__(self, prog: str | None = None, *, examples: Sequence[str] = (), **more: Any) -> None:
        lines = [f"  {example.replace('{prog}', prog or '')}" for example in examples]
        epilog = "\n".join(["examples:", *lines]) if lines else None
        super().__init__(prog=prog, epilog=epilog, allow_abbrev=False, formatter_class=_Help, **more)

    def error(self, message: str) -> NoReturn:
        raise VectorFitError(f"{message}; --help lists the flags")


def value_type(item: Field[Any]) -> Any:
    """The type of a setting, without the None of `X | None`."""
    kind: Any = item.type
    if isinstance(kind, types.UnionType):
        kind = next(of for of in typing.get_args(kind) if of is not types.NoneType)
    return kind


def options_of(settings: type) -> list[Field[Any]]:
    """The fields of a settings class that are options of a command line: those in a group."""
    return [item for item in fields(settings) if item.metadata.get("group")]


def add_options(parser: argparse.ArgumentParser, settings: type, defaults: Any = None) -> None:
    """Adds a flag per option of a settings class, in its groups. Values stay text; `values_of` converts them.

    --help shows the values of `defaults`, an instance of the class, otherwise the class's own.
    """
    groups = {group.title: group for group in parser._action_groups}
    for item in options_of(settings):
        rules = item.metadata
        group = groups[rules["group"]] = groups.get(rules["group"]) or parser.add_argument_group(rules["group"])
        flags = rules["flags"] or (f"--{item.name}",)
        given: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": _help(item, defaults)}
        kind = value_type(item)
        if kind is bool:
            given["action"] = argparse.BooleanOptionalAction
        else:
            given["metavar"] = (
                "{" + ",".join(rules["choices"]) + "}" if rules["choices"] else METAVARS.get(kind, "TEXT")
            )
        if kind == tuple[str, ...]:
            given["nargs"] = "+"
        group.add_argument(*flags, **given)


def _help(item: Field[Any], defaults: Any) -> str:
    default = item.metadata["inferred"] or _shown(getattr(defaults, item.name) if defaults else item.default)
    text = f"{item.metadata['help']} (default {default})" if default else str(item.metadata["help"])
    return text.replace("%", "%%")


def _shown(default: Any) -> str:
    """A default as --help shows it, "" for one that says nothing."""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple):
        return " ".join(default)
    return "" if default is MISSING or default is None else str(default)


def values_of(settings: type, flags: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The given flags of a settings class, each of its setting's type. What cannot be converted is noted."""
    values: dict[str, Any] = {}
    for item in options_of(settings):
        if item.name not in flags:
            continue
        kind, value = value_type(item), flags[item.name]
        if kind == tuple[str, ...]:
            kind = tuple
        try:
            values[item.name] = value if isinstance(value, kind) else kind(value)
        except ValueError:
            problems.messages.append(f"--{item.name}: got {value!r}, expected {EXPECTED[kind]}")
    return values


def parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    problems: Problems,
    elsewhere: Mapping[str, str] | None = None,
    folder_flag: str = "",
) -> dict[str, Any]:
    """The flags of a command line. What is wrong with it is noted, and the rest is read.

    Args:
        elsewhere: flags of other programs that do not exist here, and what to use instead.
        folder_flag: the flag that was probably meant where a folder is given without one.
    """
    namespace, unknown = argparse.Namespace(), list[str]()
    with problems.noting():
        namespace, unknown = parser.parse_known_args(arguments)
    known, after_flag = list(parser._option_string_actions), False
    for argument in unknown:
        flag = argument.split("=")[0]
        if argument.startswith("--"):
            hint = (elsewhere or {}).get(flag) or did_you_mean(flag, known) or "--help lists all flags"
            problems.messages.append(f"unknown argument {flag}; {hint}")
        elif not after_flag:  # the value of an unknown flag is not a second error
            meant = f"did you mean {folder_flag} {argument}?" if folder_flag and Path(argument).is_dir() else ""
            problems.messages.append(f"unknown argument {argument}; {meant or '--help lists all flags'}")
        after_flag = argument.startswith("--") and "=" not in argument
    return vars(namespace)


def read(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a command line. Raises VectorFitError with all that is wrong with it."""
    problems = Problems()
    flags = parse(parser, arguments, problems)
    problems.raise_all()
    return argparse.Namespace(**flags)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the most similar known word, or "" where none is near."""
    near = difflib.get_close_matches(word, list(known), 1, NEAR)
    return f"did you mean {near[0]}?" if near else ""
