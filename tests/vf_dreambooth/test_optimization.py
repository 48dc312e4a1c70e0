"""Learning rates and the moving average."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_dreambooth_vectorfit as script
from train_dreambooth_vectorfit import main
from vectorfit.fingerprint import canonical_name
from vf_dreambooth import objective
from vf_training.runs import RunFolder


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def test_the_text_encoders_own_rate(arguments, tmp_path):
    # AdamW's first step moves a number by its rate, or by less where the gradient is next to nothing.
    main(arguments(tmp_path / "run", "--max_train_steps", 1, "--text_encoder_lr", 1e-4, "--no-avf"))
    moved = {"unet": 0.0, "text_encoder": 0.0}
    for name, vector in vectors(tmp_path / "run").items():
        model = name.split(".")[0]
        moved[model] = max(moved[model], vector.abs().max().item())
    assert moved == pytest.approx({"unet": 1e-2, "text_encoder": 1e-4}, rel=1e-2)


def test_the_moving_average_is_what_is_saved(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--use_ema", "--ema_decay", 0.5, "--checkpointing_steps", 1, "--no-avf"))
    run = RunFolder(tmp_path / "run")
    states = [torch.load(run.checkpoint(s) / "state.pt", weights_only=True)["vectors"] for s in run.checkpoints()]
    assert len(states) == 3
    before, after = (vectors(run.checkpoint(s)) for s in (3, 4))
    for name, average in after.items():
        raw = next(v for key, v in states[-1].items() if canonical_name(key) == name)
        # decay min(0.5, (1 + n) / (10 + n)) with n the averagings before this one
        decay = min(0.5, 4 / 13)
        torch.testing.assert_close(average, decay * before[name] + (1 - decay) * raw)


def test_the_rate_stands_still_while_the_scaler_skips_updates(arguments, tmp_path, monkeypatch):
    """A real scaler of fp16, on the CPU, that begins with a scale at which every gradient overflows."""
    start = script.start

    def with_scaler(setup):
        accelerator = start(setup)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-110)
        return accelerator

    monkeypatch.setattr(script, "start", with_scaler)
    plain = objective.per_sample_loss  # a steep loss: times the scale, its gradient is more than float32 holds
    monkeypatch.setattr(objective, "per_sample_loss", lambda *pair: 1e6 * plain(*pair))
    script.main(arguments(tmp_path / "run", "--lr_scheduler", "linear", "--no-avf", "--checkpointing_steps", 1))
    run = RunFolder(tmp_path / "run")
    log = run.read_log()
    assert [entry["grad_norm"] is None for entry in log] == [True, False, False, False]
    assert "Infinity" not in run.log.read_text()
    first, *others = [entry["lr"] for entry in log]
    assert first == pytest.approx(1e-2)
    assert others == pytest.approx([1e-2 * share for share in (0.75, 0.5, 0.25)])
    states = [torch.load(run.checkpoint(step) / "state.pt", weights_only=True) for step in run.checkpoints()]
    assert [state["schedule"]["last_epoch"] for state in states] == [1, 2, 3]
