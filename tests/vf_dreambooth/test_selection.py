"""The evaluator is started at the end of a training: what it is given, and what a failure leaves."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import train_dreambooth_vectorfit as script
from vf_dreambooth import selection
from vf_training.runs import RunFolder


def test_the_evaluator_starts_alone_and_finds_the_checkout(tmp_path, monkeypatch, capsys):
    started = {}

    def run(command, env, check):
        started.update(command=command, env=env)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert selection.launch(RunFolder(tmp_path))
    assert started["command"][:2] == [sys.executable, "-m"]
    assert started["command"][2:] == ["eval.__main__", "select", str(tmp_path)]
    assert not {"WORLD_SIZE", "RANK"} & started["env"].keys()
    root, other = started["env"]["PYTHONPATH"].split(os.pathsep)
    assert (root, other) == (str(selection.Path(selection.__file__).resolve().parents[1]), "/elsewhere")
    assert capsys.readouterr().out == ""


def test_a_failure_is_told_and_the_training_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    assert not selection.launch(RunFolder(tmp_path))
    assert f"the last checkpoint stays; try again with: vectorfit eval select {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [True, False])
def test_select_starts_it_after_the_training(arguments, tmp_path, monkeypatch, wanted):
    picked = []
    monkeypatch.setattr(selection, "launch", lambda run: picked.append((run.path, run.vectors.exists())))
    script.main(arguments(tmp_path / "run", "--max_train_steps", 2, *(("--select",) if wanted else ())))
    assert picked == ([(tmp_path / "run", True)] if wanted else [])
