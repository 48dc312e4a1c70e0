"""Many subjects trained on Ray: all finish, none twice, and what fails is named."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest

from tests.vf_dreambooth.test_fleet_worker import FLAGS
from vectorfit import VectorFitError
from vf_dreambooth import fleet
from vf_dreambooth.fleet_worker import Worker
from vf_training.fleet import Outcome, actors, outcomes, start
from vf_training.runs import RunFolder

SUBJECTS = 40
STEPS = 2


def folders_of(photos, tmp_path, count):
    for number in range(count):
        shutil.copytree(photos, tmp_path / "photos" / f"dog{number:02d}")
    return tmp_path / "photos"


def test_subjects_are_the_folders_by_name(photos, tmp_path):
    root = folders_of(photos, tmp_path, 2)
    (root / "note.txt").write_text("")
    found = fleet.subjects_in(f"{root}/", str(tmp_path / "runs"))
    assert [(s.name, s.photos, s.run) for s in found] == [
        (name, f"{root}/{name}", f"{tmp_path}/runs/{name}") for name in ("dog00", "dog01")
    ]
    with pytest.raises(VectorFitError, match="has no folders, expected one for each subject"):
        fleet.subjects_in(str(photos), "runs")


def test_flags_of_the_training_stand_after_two_dashes(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(
        fleet,
        "train",
        lambda arguments, flags: seen.update(vars(arguments), flags=flags) or [Outcome("a", "failed", "x")],
    )
    with pytest.raises(VectorFitError, match="1 of 1 subjects failed: a"):
        fleet.main(["photos", "--out", "runs", "--workers", "3", "--", "--max_train_steps", "9"])
    assert (seen["photos"], seen["workers"], seen["flags"]) == ("photos", 3, ["--max_train_steps", "9"])
    assert "a  failed" in capsys.readouterr().out


def test_numbers_out_of_range_are_refused(tmp_path):
    arguments = SimpleNamespace(photos=str(tmp_path), out=str(tmp_path), workers=0, retries=0)
    with pytest.raises(VectorFitError, match="--workers: got 0, expected at least 1"):
        fleet.train(arguments, [])


@pytest.mark.slow
def test_all_subjects_finish_once_although_a_worker_is_killed(photos, tiny_base, tmp_path):
    pytest.importorskip("ray")
    root = folders_of(photos, tmp_path, SUBJECTS)
    shutil.rmtree(root / "dog07")
    (root / "dog07").mkdir()  # without photos
    subjects = fleet.subjects_in(str(root), str(tmp_path / "runs"))
    arguments = SimpleNamespace(workers=2, gpus=0, cpus=1, retries=2)
    flags = [*FLAGS, "--base_model", str(tiny_base)]
    ray, found, killed = start(None, 2, 1), [], 0
    try:
        workers = actors(ray, Worker, [flags], len(subjects), arguments)
        for outcome in outcomes(ray, workers, subjects):
            found.append(outcome)
            if len(found) == SUBJECTS // 4:
                os.kill(killed := outcome.worker, signal.SIGKILL)
        again = list(outcomes(ray, workers, subjects))
    finally:
        ray.shutdown()
    assert sorted(outcome.name for outcome in found) == [subject.name for subject in subjects]
    states = {outcome.name: outcome.state for outcome in found}
    assert states.pop("dog07") == "failed"
    assert set(states.values()) <= {"trained", "found finished"}  # found: killed after its last write
    assert len({outcome.worker for outcome in found} - {killed}) >= 2  # one was started in its place
    for name in states:
        run = RunFolder(tmp_path / "runs" / name)
        assert [entry["step"] for entry in run.read_log()] == list(range(1, STEPS + 1))
        assert run.vectors.exists()
    assert {outcome.state for outcome in again if outcome.name != "dog07"} == {"found finished"}
