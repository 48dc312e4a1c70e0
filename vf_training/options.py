"""Declares settings: one `option(...)` has the default, help, checks and dependencies of a setting."""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields, replace
from typing import Any

EVERYTHING = "*"  # the pattern of the names without a learning rate of their own
Check = Callable[[Any], str]  # maps a value to what is wrong with it, or to ""
Conflict = Callable[[Mapping[str, Any]], str]  # maps all settings to why this one cannot be given, or to ""


def option(
    default: Any,
    text: str,
    *,
    group: str,
    flags: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    checks: tuple[Check, ...] = (),
    conflict: Conflict | None = None,
    infer: Callable[[Any, Any], Any] | None = None,
    inferred: str = "",
    depends_on: tuple[str, ...] = (),
    shapes_result: bool = True,
    rate_of: str = "",
) -> Any:
    """A field of a settings class. The default MISSING makes it required.

    Args:
        text: the help text.
        group: the heading under which --help lists it; "" for what is no flag.
        flags: its flags, if they differ from its name.
        choices: the values that it can have.
        checks: what each given value must pass; the first that fails is reported.
        conflict: returns why a value that is not the default contradicts the other settings.
        infer: returns the value if it is None or "auto", from the settings so far and the circumstances of the run.
        inferred: what it infers, for --help.
        depends_on: settings that decide its value. When a flag changes one of them in a recorded run, the recorded
            value is dropped, and inferred again.
        shapes_result: whether the trained vectors depend on the value as such. Those settings are kept in the subject
            file, and must not change when a run is resumed. Folders and reports may change.
        rate_of: the pattern of the names of the parameters whose learning rate the value is, as
            `vectorfit.parameter_groups` takes it. Of several that match a name, the one declared first counts.
    """
    metadata = {
        "help": text,
        "group": group,
        "flags": flags,
        "choices": choices,
        "checks": checks,
        "conflict": conflict,
        "infer": infer,
        "inferred": inferred,
        "depends_on": depends_on,
        "shapes_result": shapes_result,
        "rate_of": rate_of,
    }
    return field(default=default, metadata=metadata)


def at_least(bound: float) -> Check:
    return lambda value: "" if math.isfinite(value) and value >= bound else f"got {value}, expected at least {bound}"


def above(bound: float) -> Check:
    return lambda value: "" if math.isfinite(value) and value > bound else f"got {value}, expected more than {bound}"


def within(least: float, most: float) -> Check:
    return lambda value: "" if least <= value <= most else f"got {value}, expected {least} to {most}"


def decay(value: float) -> str:
    """A check: the value is a factor of an exponential average."""
    return "" if 0 <= value < 1 else f"got {value}, expected at least 0 and below 1"


def fraction(value: float) -> str:
    """A check: the value is a part of a whole."""
    return "" if 0 <= value <= 1 else f"got {value}, expected 0 to 1"


def multiple_of(unit: int) -> Check:
    return lambda value: "" if value % unit == 0 else f"got {value}, expected a multiple of {unit}"


def one_of(*allowed: int) -> Check:
    return lambda value: "" if value in allowed else f"got {value}, expected {', '.join(map(str, allowed))}"


def not_blank(expected: str) -> Check:
    return lambda value: "" if value.strip() else f"not given, expected {expected}"


def printable(most: int) -> Check:
    """The check that a text has at most `most` characters, all of them printable."""

    def check(value: str) -> str:
        if len(value) <= most and value.isprintable():
            return ""
        shown = ascii(value[:20]) + ("..." if len(value) > 20 else "")
        return f"got {shown}, expected at most {most} printable characters"

    return check


def only_with(name: str, *allowed: Any, because: str) -> Conflict:
    """A conflict for a setting that needs some values of another one, given by name."""
    return lambda values: "" if values[name] in allowed else because.format(**values)


def not_with(name: str, value: Any, because: str) -> Conflict:
    """A conflict for a setting that one value of another one rules out."""
    return lambda values: because if values[name] == value else ""


def first_of(*conflicts: Conflict) -> Conflict:
    """The first of several conflicts that holds."""
    return lambda values: next((problem for conflict in conflicts if (problem := conflict(values))), "")


def _problem(item: Field[Any], values: Mapping[str, Any]) -> str:
    value, rules = values[item.name], item.metadata
    checks: tuple[Check, ...] = rules["checks"]
    conflict: Conflict | None = rules["conflict"]
    if value is None:
        return ""
    if rules["choices"] and value not in rules["choices"]:
        return f"got {value!r}, expected one of {', '.join(rules['choices'])}"
    for check in checks:
        if problem := check(value):
            return problem
    if conflict and value not in (item.default, ""):
        return conflict(values)
    return ""


def problems_of(settings: type, values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the values of a settings class, by the name of the setting to blame."""
    problems = {item.name: (item, _problem(item, values)) for item in fields(settings) if item.metadata}
    return {name: f"{_called(item)}: {problem}" for name, (item, problem) in problems.items() if problem}


def _called(item: Field[Any]) -> str:
    """A setting as messages call it: by its flag, if it has one."""
    if not item.metadata["group"]:
        return item.name
    return str((item.metadata["flags"] or (f"--{item.name}",))[0])


def completed(settings: Any, at: Any) -> Any:
    """The settings with everything inferred from the circumstances `at`, in the order of the fields.

    Raises what inferring raises.
    """
    for item in fields(settings):
        if (infer := item.metadata["infer"]) and getattr(settings, item.name) in (None, "auto"):
            settings = replace(settings, **{item.name: infer(settings, at)})
    return settings


def dependents(settings: type, name: str) -> set[str]:
    """The settings that depend on the one of this name, directly or through others."""
    direct = {item.name for item in fields(settings) if name in item.metadata["depends_on"]}
    return direct.union(*(dependents(settings, other) for other in direct))
