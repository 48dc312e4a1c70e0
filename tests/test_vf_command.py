"""One command for all command lines: it finds them, gives them its name, and says which extra is missing."""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vectorfit
import vf_command

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vectorfit"])


def test_help_lists_every_command_with_its_purpose(capsys):
    assert vf_command.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name:10}{command.purpose}\n" in printed for name, command in vf_command.COMMANDS.items())
    assert vf_command.main([]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", vf_command.COMMANDS)
def test_a_commands_own_help_has_the_name_that_it_was_called_by(name, capsys):
    with pytest.raises(SystemExit) as ended:
        vf_command.main([name, "--help"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: vectorfit {name} ")


def test_examples_have_that_name_too(capsys):
    with pytest.raises(SystemExit):
        vf_command.main(["train", "--help"])
    assert "\n  vectorfit train --instance_dir dog/\n" in capsys.readouterr().out


def test_arguments_and_status_pass_through(capsys):
    with pytest.raises(SystemExit) as ended:
        vf_command.main(["tasks", "no-such-recipe"])
    assert ended.value.code == 2
    assert "no recipe is called 'no-such-recipe'" in capsys.readouterr().err


def test_version(capsys):
    assert vf_command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vectorfit {vectorfit.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"), [("trian", "did you mean train?"), ("paint", "expected one of train, generate, eval, ")]
)
def test_an_unknown_command_is_told_with_what_there_is(word, hint, capsys):
    assert vf_command.main([word]) == 2
    assert f"unknown command {word}; {hint}" in capsys.readouterr().err


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch, capsys):
    find = metadata.distribution

    def without_diffusers(name):
        if name == "diffusers":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata, "distribution", without_diffusers)
    assert vf_command.main(["train", "--instance_dir", "dog"]) == 2
    said = "vectorfit train: the extra dreambooth is not installed; pip install 'vectorfit[dreambooth]' installs "
    assert capsys.readouterr().err == f"{said}diffusers\n"


def test_one_of_several_extras_is_enough(monkeypatch, capsys):
    monkeypatch.setattr(vf_command, "missing", lambda extra: ["tqdm"] if extra == "dreambooth" else [])
    with pytest.raises(SystemExit):  # analyze itself asks for a run
        vf_command.main(["analyze"])
    assert "the following arguments are required: run" in capsys.readouterr().err


@pytest.mark.parametrize("extra", ["dreambooth", "tasks", "eval", "app"])
def test_what_an_extra_needs_is_what_pyproject_says(extra):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in extras[extra]]
    nested = [each for need in wanted if need.name == "vectorfit" for name in need.extras for each in extras[name]]
    names = {need.name for need in wanted if need.name != "vectorfit"} | {Requirement(line).name for line in nested}
    assert set(vf_command.needed(extra)) == names
    assert not vf_command.missing(extra)
