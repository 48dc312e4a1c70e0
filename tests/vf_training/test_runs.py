"""The run folder: whole or absent, and readable after a kill."""

import contextlib
import json

import pytest

from vectorfit import VectorFitError
from vf_training.runs import RunFolder


def test_nothing_is_created_before_the_first_write(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.read_log() == []
    assert run.checkpoints() == {}
    assert not run.path.exists()
    run.write_config({"a": "ä"})
    assert run.read_config() == {"a": "ä"}


def test_a_checkpoint_is_whole_or_not_there(tmp_path):
    run = RunFolder(tmp_path)
    for step in (10, 2):
        with run.new_checkpoint(step) as folder:
            (folder / "state").write_text(str(step))
            assert not run.checkpoint(step).exists()
    with contextlib.suppress(ZeroDivisionError), run.new_checkpoint(20) as folder:
        (folder / "state").write_text("half")
        raise ZeroDivisionError
    assert list(run.checkpoints()) == [2, 10]
    assert (run.checkpoint(10) / "state").read_text() == "10"
    run.keep_checkpoints([10])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000010"]


def test_the_checkpoints_of_earlier_tasks_are_found_by_their_names(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("checkpoint-9", "checkpoint-10", "step_000011", ".step_000012.tmp", "step_000001-backup", ".trainer"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert list(run.checkpoints()) == [9, 10, 11]
    run.keep_checkpoints([11])
    assert list(run.checkpoints()) == [11]
    assert (tmp_path / "checkpoints" / "step_000001-backup").exists()


def test_a_log_is_read_up_to_the_line_a_kill_has_cut(tmp_path):
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append_log({"step": step, "loss": 1 / step})
    run.cut_log(2)
    with run.log.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [entry["step"] for entry in run.read_log()] == [1, 2]
    run.log.write_text(json.dumps({"loss": 1}) + "\n")
    with pytest.raises(VectorFitError, match="not the log of a training"):
        run.read_log()


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(VectorFitError, match="not a run folder"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(VectorFitError, match="not valid JSON"):
        RunFolder(tmp_path).read_config()
