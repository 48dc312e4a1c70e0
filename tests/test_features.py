"""The table of features: every flag that it names exists, and its numbers are whole."""

import re
from pathlib import Path

from vf_dreambooth import export, generate
from vf_dreambooth.cli import build_parser
from vf_dreambooth.previews import OPTIONS

ROOT = Path(__file__).parents[1]


def rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "features.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def test_all_features_are_there_once_with_a_state():
    assert [int(number) for number, *_ in rows()] == list(range(1, 66))
    assert {state for _, _, state, _ in rows()} <= {"yes", "in part", "not", "not yet"}


def test_every_flag_that_is_named_exists():
    parsers = (build_parser("x"), export.build_parser(), generate.build_parser())
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    known |= set(re.findall(r'"(--\w+)"', (ROOT / "app" / "command.py").read_text(encoding="utf-8")))
    known |= {"--num_processes", *(f"--{letter}" for letter in OPTIONS)}  # of accelerate launch, and of prompt files
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("features.md", "dreambooth.md"))
    named = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", text))
    assert len(named) > 40
    assert not named - known
