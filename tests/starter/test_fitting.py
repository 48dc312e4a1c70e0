"""The starter's training loop: masters in float32, averages, and going on after a stop."""

from pathlib import Path

import pytest
import torch
from torch import nn

from starter import fitting


@pytest.fixture
def train(tmp_path, monkeypatch):
    """`train(steps, dtype=..., **more)`: a linear layer drawn to zero by `fit`, its state in a folder of the test."""
    monkeypatch.setattr(fitting, "WORK", tmp_path)

    def run(steps: int, *, stop_at: int | None = None, dtype=torch.bfloat16, **more) -> nn.Module:
        torch.manual_seed(0)
        module = nn.Linear(16, 8).to(dtype)

        def loss(step: int, generator: torch.Generator) -> torch.Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            return module(torch.randn(32, 16, generator=generator).to(dtype)).float().square().mean()

        options = {"rate": 1e-2, "preview": lambda path: "", "preview_every": 10, **more}
        fitting.fit("linear", module, loss, steps=steps, **options)
        return module

    return run


def test_a_step_too_small_for_bf16_is_not_lost(train):
    """One in bf16 is followed by 1.0078: without a master of float32 a rate of 1e-5 would leave every weight be."""
    torch.manual_seed(0)
    before = nn.Linear(16, 8).to(torch.bfloat16).float().weight
    moved = (train(200, rate=1e-5).weight - before).abs()
    assert moved.median() > 2e-4
    assert (before.detach() + 1e-5).to(torch.bfloat16).float().sub(before).abs().median() == 0


def test_the_averaged_weights_are_left_in_float32(train):
    module = train(30)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    state = torch.load(Path(fitting.WORK) / "linear.pt", weights_only=True)
    for parameter, averaged, value in zip(
        module.parameters(), state["masters"]["averaged"], state["masters"]["values"], strict=True
    ):
        assert torch.equal(parameter, averaged)
        assert not torch.equal(parameter, value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_stopped_training_ends_as_one_that_was_not(train, tmp_path, dtype):
    whole = [p.clone() for p in train(40, dtype=dtype).parameters()]
    (tmp_path / "linear.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        train(40, stop_at=27, dtype=dtype)
    for resumed, expected in zip(train(40, dtype=dtype).parameters(), whole, strict=True):
        assert torch.equal(resumed, expected)


def test_the_loss_falls_and_the_gradient_is_clipped(train):
    torch.manual_seed(0)
    before = nn.Linear(16, 8)
    assert train(300).weight.norm() < before.weight.norm() / 2
    masters = fitting.Masters(before, rate=1.0, weight_decay=0.0)
    (1e4 * before(torch.ones(1, 16)).sum()).backward()
    masters.step(0, 0.5)
    assert torch.cat([value.grad.flatten() for value in masters.values]).norm() == pytest.approx(1.0, rel=1e-3)
    assert masters.optimizer.param_groups[0]["lr"] == 0.5


def test_what_a_module_moves_itself_stays_where_it_went(tmp_path, monkeypatch):
    """As DINO's teacher, which follows the student and has no gradient."""
    monkeypatch.setattr(fitting, "WORK", tmp_path)
    torch.manual_seed(0)
    module = nn.ModuleDict({"student": nn.Linear(4, 4), "teacher": nn.Linear(4, 4).requires_grad_(False)})
    begun = module["teacher"].weight.clone()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        module["teacher"].weight.add_(1.0)
        return module["student"](torch.ones(1, 4)).square().mean()

    fitting.fit("pair", module, loss, steps=5, rate=1e-2, preview=lambda path: "", preview_every=2)
    torch.testing.assert_close(module["teacher"].weight, begun + 5)
