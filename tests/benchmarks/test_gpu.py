"""The GPU benchmark's whole code, tiny and on a CPU: every part, its goals, and going on after a failure."""

import json
import math
import subprocess

import pytest
import torch
from accelerate.state import AcceleratorState

import train_dreambooth_vectorfit
from benchmarks import gpu, gpu_parts, tasks_speed
from benchmarks.gpu_parts import FULL, PARTS, TINY


@pytest.fixture
def in_this_process(monkeypatch):
    """Trainings and tests that the parts start, done here: a process takes longer to start than they take."""

    def run(command, *, cwd, **options):
        module, flags = command[2], command[3:]
        assert cwd == gpu_parts.ROOT
        if module == "pytest":
            assert flags[-1].startswith("tests")
            return subprocess.CompletedProcess(command, 0, "...\n3 passed in 1.0s\n", "")
        assert module == "train_dreambooth_vectorfit"
        train_dreambooth_vectorfit.main(flags)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder that the parts share, as in a run of the benchmark."""
    return tmp_path_factory.mktemp("gpu")


SLOW = [part for part in PARTS if part.endswith("compiled")]  # a quarter of a minute each


@pytest.mark.parametrize("part", [pytest.param(part, marks=[pytest.mark.slow] * (part in SLOW)) for part in PARTS])
def test_every_part_runs_tiny(part, work, in_this_process, monkeypatch):
    monkeypatch.setattr(tasks_speed, "SHAPE", dict(tasks_speed.SHAPE))
    found = PARTS[part](TINY, work)
    assert found
    figures = [value for value in found.values() if isinstance(value, float)]
    # What the planner could save is a difference of times: of either sign.
    assert all(math.isfinite(figure) if part == "planner" else figure > 0 for figure in figures)


def test_parts_of_a_name_measure_what_it_says(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(gpu_parts.sd14_step, "measure", lambda *sizes, **options: given.update(options) or {})
    PARTS["step, vectorfit"](TINY, tmp_path)
    assert (given["backend"], given["memory_format"]) == (None, torch.contiguous_format)
    PARTS["step, vectorfit, compiled"](TINY, tmp_path)
    assert given["backend"] == "aot_eager"
    PARTS["step, vectorfit, compiled"](FULL, tmp_path)
    assert given["backend"] == "inductor"
    PARTS["step, vectorfit, channels_last"](TINY, tmp_path)
    assert given["memory_format"] == torch.channels_last


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gpu tests", "photos to subject, class images", "photos to subject, no prior"])
def test_parts_with_processes_run_tiny(part, tmp_path):
    assert PARTS[part](TINY, tmp_path)


def test_a_failure_loses_nothing_and_the_command_goes_on(tmp_path, monkeypatch):
    calls = []

    def run_part(name, size, work, seconds):
        calls.append(name)
        return {"error": "broken"} if name == "factorising" and calls.count(name) == 1 else {"seconds": 7.0}

    monkeypatch.setattr(gpu, "run_part", run_part)
    monkeypatch.setattr(gpu, "device_name", lambda: "NVIDIA H100 80GB")
    parts = ("factorising", "switching")
    table = gpu.measure_all(TINY, tmp_path, parts).read_text()
    assert "factorising: error broken" in table
    assert gpu.measure_all(TINY, tmp_path, parts).read_text() != table
    assert calls == ["factorising", "switching", "factorising"]
    content = json.loads((tmp_path / "nvidia-h100-80gb.json").read_text())
    assert content["parts"]["factorising"] == {"seconds": 7.0}


def test_goals_that_were_missed_come_first_and_those_of_other_devices_are_not_judged():
    found = {
        "step, vectorfit": {"step": 1.2, "memory": 2**30},
        "step, frozen": {"step": 1.0},
        "step, lora 2": {"step": 1.3},
    }
    rows = gpu.judged(found, "NVIDIA H100")
    verdicts = [verdict for _, _, verdict in rows]
    assert verdicts[0] == "missed"
    assert rows[0][0].name == "step, times the frozen floor"
    by_name = {goal.name: verdict for goal, _, verdict in rows}
    assert by_name["step, times LoRA's"] == "met"
    assert by_name["training, images/s"] == "for an H200"
    assert by_name["factorising, s"] == "not measured"
    assert verdicts.index("not measured") > 0


@pytest.mark.slow
def test_a_part_in_its_own_process_and_one_that_fails(tmp_path):
    assert gpu.run_part("factorising", TINY, tmp_path, 300)["seconds"] > 0
    (tmp_path / "broken").write_text("")
    assert "error" in gpu.run_part("factorising", TINY, tmp_path / "broken", 300)
