"""Learning rates and the moving average."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train_dreambooth_vectorfit import main
from vectorfit.fingerprint import canonical_name
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
