"""Losses that are not finite, and memory that does not suffice."""

import re
from pathlib import Path

import pytest
import torch

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import faults, objective
from vf_training.runs import RunFolder


def content(run: Path) -> tuple[bytes, bytes]:
    return (run / "vectors.safetensors").read_bytes(), (run / "log.jsonl").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_pictures_and_keeps_the_last_good_file(
    arguments, whole, tmp_path, monkeypatch, value
):
    original = objective.per_sample_loss
    calls = []

    def per_sample_loss(*arguments):
        calls.append(None)
        return original(*arguments) * (value if len(calls) == 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(objective, "per_sample_loss", per_sample_loss)
        with pytest.raises(vf.VectorFitError) as caught:
            main(arguments(tmp_path / "run"))
    message, run = str(caught.value), RunFolder(tmp_path / "run")
    assert re.search(f"the (loss|gradient) is {value} at step 4", message)
    assert ".png" in message
    assert "class images" in message
    assert list(run.checkpoints()) == [2, 3]
    vf.read_metadata(run.checkpoint(3) / "vectors.safetensors")
    main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest"))
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_names_the_next_smaller_preset(arguments, tmp_path, monkeypatch, error):
    def backward(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(objective.Objective, "backward", backward)
        with pytest.raises(vf.VectorFitError) as caught:
            main(arguments(tmp_path / "run"))
    message = str(caught.value)
    assert "out of memory; add --memory 12. (" in message  # 24 and 16 change nothing in batches of 2
    main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest", "--memory", 12))  # and it is accepted
    assert (tmp_path / "run" / "vectors.safetensors").exists()
    with pytest.raises(RuntimeError, match="another"), faults.memory_advice(None):
        raise RuntimeError("another")
