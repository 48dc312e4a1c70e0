"""Ctrl-C: once finishes the step, twice stops at once."""

import os
import signal
from pathlib import Path

import pytest

from train_dreambooth_vectorfit import main
from vf_dreambooth import interruption, objective
from vf_training.runs import RunFolder


def content(run: Path) -> tuple[bytes, bytes]:
    return (run / "vectors.safetensors").read_bytes(), (run / "log.jsonl").read_bytes()


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(arguments, whole, tmp_path, monkeypatch, capsys):
    original = objective.Objective.backward

    def backward(self, denoiser, step, accelerator):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, denoiser, step, accelerator)

    with monkeypatch.context() as patch:
        patch.setattr(objective.Objective, "backward", backward)
        with pytest.raises(SystemExit) as caught:
            main(arguments(tmp_path / "parts"))
    assert caught.value.code == 130
    run = RunFolder(tmp_path / "parts")
    assert list(run.checkpoints()) == [2, 3]
    assert f"--resume_from_checkpoint {run.path}" in capsys.readouterr().out
    assert not run.vectors.exists()
    main(["--resume_from_checkpoint", str(run.path)])
    assert content(run.path) == content(whole)


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)  # shells make what they start in the background ignore it
    with interruption.Interruption() as wish:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
