"""What a declared option does: its checks, its conflicts, and what depends on it."""

from dataclasses import MISSING, dataclass

from vf_training.options import (
    above,
    at_least,
    completed,
    dependents,
    multiple_of,
    one_of,
    only_with,
    option,
    printable,
    problems_of,
    within,
)


@dataclass(frozen=True)
class Settings:
    size: int = option(8, "", group="g", checks=(at_least(1), multiple_of(8)))
    rate: float | None = option(None, "", group="g", flags=("--lr", "--rate"), checks=(above(0),))
    smooth: bool = option(False, "", group="g")
    decay: float | None = option(
        None, "", group="g", conflict=only_with("smooth", True, because="needs --smooth"), depends_on=("smooth",)
    )
    half_life: float | None = option(None, "", group="g", depends_on=("decay",))
    word: str = option("sks", "", group="g", checks=(printable(5),))


def problems(**values) -> dict[str, str]:
    return problems_of(Settings, vars(Settings()) | values)


def test_the_first_failing_check_is_reported_under_the_first_flag():
    assert not problems()
    assert problems(size=0, rate=0.0) == {
        "size": "--size: got 0, expected at least 1",
        "rate": "--lr: got 0.0, expected more than 0",
    }
    assert problems(size=9) == {"size": "--size: got 9, expected a multiple of 8"}
    assert problems(rate=float("nan"))
    assert problems(word="a\nb") == {"word": "--word: got 'a\\nb', expected at most 5 printable characters"}


def test_only_a_given_value_can_conflict():
    assert problems(decay=0.0) == {"decay": "--decay: needs --smooth"}
    assert not problems(decay=0.0, smooth=True)


def test_dependents_are_direct_and_indirect():
    assert dependents(Settings, "smooth") == {"decay", "half_life"}
    assert dependents(Settings, "word") == set()


@dataclass(frozen=True)
class Inferred:
    steps: int | None = option(None, "", group="g", infer=lambda _, at: at)
    half: int | None = option(None, "", group="g", infer=lambda settings, _: settings.steps // 2)
    mode: str = option("auto", "", group="g", infer=lambda settings, _: f"{settings.half}")


def test_what_is_not_given_is_inferred_in_the_order_of_the_settings():
    assert completed(Inferred(), 8) == Inferred(8, 4, "4")
    assert completed(Inferred(half=3), 8) == Inferred(8, 3, "3")


def test_one_of_names_what_it_takes():
    assert one_of(24, 8)(8) == ""
    assert one_of(24, 8)(10) == "got 10, expected 24, 8"


def test_within_has_both_bounds():
    assert within(0, 2)(0) == within(0, 2)(2) == ""
    assert within(0, 2)(3) == "got 3, expected 0 to 2"


@dataclass(frozen=True)
class Described:
    name: str = option(MISSING, "", group="", checks=(printable(3),))
    plain: int = 3


def test_what_is_no_flag_is_called_by_its_name():
    assert problems_of(Described, vars(Described("long one"))) == {
        "name": "name: got 'long one', expected at most 3 printable characters"
    }
