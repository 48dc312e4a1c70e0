"""Checkpoints: which are kept, and what is said of those that cannot be used."""

import os
from pathlib import Path

import pytest

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import objective, setup
from vf_training.runs import RunFolder

WRITES_BEFORE_CHECKPOINTS = 2  # settings, and the log cut back; the class images are there already


def content(run: Path) -> tuple[bytes, bytes]:
    return (run / "vectors.safetensors").read_bytes(), (run / "log.jsonl").read_bytes()


class Stop(Exception):
    """Ends a training in the middle of a step, as a crash would."""


def stop_in(monkeypatch, step: int) -> None:
    original = objective.Objective.backward

    def backward(self, denoiser, now, accelerator):
        if now == step:
            raise Stop
        return original(self, denoiser, now, accelerator)

    monkeypatch.setattr(objective.Objective, "backward", backward)


def test_a_checkpoint_that_is_none_is_said_before_any_work(arguments, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "run"))
    (tmp_path / "run" / "checkpoints" / "step_000002-backup").mkdir()  # a user's own
    with pytest.raises(vf.VectorFitError, match=r"step_000099 is not a checkpoint of .*; it has step_000002"):
        setup.prepare(["--resume_from_checkpoint", str(tmp_path / "run" / "checkpoints" / "step_000099")])


def test_only_the_newest_checkpoints_are_kept(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--checkpointing_steps", 1, "--checkpoints_total_limit", 2))
    assert list(RunFolder(tmp_path / "run").checkpoints()) == [3, 4]


def test_a_damaged_checkpoint_is_named(arguments, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "run"))
    state = tmp_path / "run" / "checkpoints" / "step_000002" / "state.pt"
    whole = state.read_bytes()
    for damaged in (whole[:500], b"", b"garbage" * 99, bytes(len(whole))):
        state.write_bytes(damaged)
        with pytest.raises(vf.VectorFitError, match=r"step_000002/state\.pt: cannot be resumed from, it is damaged"):
            main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest"))


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_failing_write_keeps_the_checkpoint_before_it(arguments, whole, tmp_path, monkeypatch, failing):
    flush, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(None)
        if len(calls) == WRITES_BEFORE_CHECKPOINTS + failing:
            raise OSError(5, "Input/output error")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(vf.VectorFitError, match=r"cannot be written \(Input/output error\)"):
            main(arguments(tmp_path / "run"))
    run = RunFolder(tmp_path / "run")
    for folder in run.checkpoints().values():
        assert {path.name for path in folder.iterdir()} == {"vectors.safetensors", "state.pt"}
    main(arguments(run.path, "--resume_from_checkpoint", "latest"))
    assert content(run.path) == content(whole)
