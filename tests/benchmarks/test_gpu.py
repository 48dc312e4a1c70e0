"""The GPU benchmark's whole code, tiny and on a CPU: every part, its goals, and going on after a failure."""

import json

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import PARTS, TINY


@pytest.mark.slow
@pytest.mark.parametrize("part", [name for name in PARTS if "compiled" not in name])
def test_every_part_runs_tiny(part, tmp_path):
    found = PARTS[part](TINY, tmp_path)
    assert found
    assert all(value > 0 for value in found.values() if isinstance(value, float))


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


def test_a_part_in_its_own_process_and_one_that_fails(tmp_path):
    assert gpu.run_part("factorising", TINY, tmp_path, 300)["seconds"] > 0
    (tmp_path / "broken").write_text("")
    assert "error" in gpu.run_part("factorising", TINY, tmp_path / "broken", 300)
