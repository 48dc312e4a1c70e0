"""Losses that are not finite, and memory that does not suffice."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import faults, objective
from vf_dreambooth.families.stable_diffusion import StableDiffusionDenoiser
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


def test_a_batch_for_which_there_is_no_memory_is_computed_in_parts(arguments, whole, tmp_path, monkeypatch, capsys):
    original, sizes = StableDiffusionDenoiser.predict, []

    def predict(self, noisy, *more):
        sizes.append(len(noisy))
        if len(noisy) > 2 and len(sizes) > 1:  # the first step has room, the second has not
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return original(self, noisy, *more)

    monkeypatch.setattr(StableDiffusionDenoiser, "predict", predict)
    main(arguments(tmp_path / "run"))
    assert sizes == [4, 4, *[2] * 6]  # two photos and two class images, then one of each, twice a step
    assert "out of memory at step 2: from here 1 of a batch at once" in capsys.readouterr().out
    # Adam turns the rounding of the smallest gradients into steps, so single entries may differ; the whole does not.
    found, wanted = (
        torch.cat(list(load_file(run / "vectors.safetensors").values())) for run in (tmp_path / "run", whole)
    )
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    losses = [[entry["loss"] for entry in RunFolder(run).read_log()] for run in (tmp_path / "run", whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
