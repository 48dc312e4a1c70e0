"""The one training loop of the starter: steady rate, averaged weights, bf16 where it is fast, resumable.

A module in bf16 is trained on float32 masters of its parameters: on a CPU with AMX its step takes half the time of one
under autocast, which casts weights and activations to and fro.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .layout import WORK


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_half() -> bool:
    """Whether bf16 is fast: on CUDA and on CPUs with bf16 instructions; on others it is emulated, ten times slower."""
    return device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def autocast(module: nn.Module | None = None) -> torch.autocast:
    """bf16 where it is fast, unless `module` is in bf16 as it is."""
    whole = module is not None and next(module.parameters()).dtype == torch.bfloat16
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_half() and not whole)


def arguments(description: str, **defaults: float) -> argparse.Namespace:
    """Command line of a training script: one flag per default, of the default's type."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    return parser.parse_args()


def _rate(step: int, total: int, warmup: int = 200, cooldown: float = 0.25) -> float:
    """Warm-up, a steady rate, and a last quarter falling to zero: a longer run goes on from a shorter one's middle."""
    return min(1.0, (step + 1) / warmup, (total - step) / (cooldown * total))


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


class Masters:
    """Float32 copies of a module's parameters, which AdamW changes, and their exponential moving average.

    Parameters that need no gradient are left alone: the module may move them itself, as a teacher follows its student.
    """

    def __init__(self, module: nn.Module, rate: float, weight_decay: float, decay: float = 0.999) -> None:
        self.parameters, self.decay, self.rate = _trained(module), decay, rate
        self.values = [nn.Parameter(p.detach().float().clone()) for p in self.parameters]
        self.averaged = [value.detach().clone() for value in self.values]
        self.optimizer = torch.optim.AdamW(
            self.values, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )

    def step(self, step: int, factor: float) -> None:
        """One update at `factor` times the rate, its gradient clipped to norm 1; the module gets the new weights."""
        for p, value in zip(self.parameters, self.values, strict=True):
            value.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        nn.utils.clip_grad_norm_(self.values, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()
        weight = 1 - min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.averaged, [value.detach() for value in self.values], weight)
        self.show(self.values)

    @torch.no_grad()
    def show(self, values: Sequence[torch.Tensor]) -> None:
        """Writes `values` (the masters or their averages) into the module."""
        for p, value in zip(self.parameters, values, strict=True):
            p.copy_(value)

    def state(self) -> dict:
        values = [value.detach() for value in self.values]
        return {"values": values, "averaged": self.averaged, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        for value, kept in zip(self.values, state["values"], strict=True):
            value.data.copy_(kept)
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.show(self.values)


def _save(path: Path, state: dict) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def fit(
    name: str,
    module: nn.Module,
    loss: Callable[[int, torch.Generator], torch.Tensor],
    *,
    steps: int,
    rate: float,
    preview: Callable[[Path], str],
    preview_every: int = 1000,
    weight_decay: float = 0.01,
) -> None:
    """Trains `module` to lower `loss(step, generator)` and leaves the averaged weights in it, in float32.

    Every `preview_every` steps the averaged weights are previewed (`preview` draws a picture and returns a line of
    text) and the state is written to the work folder; started again, it goes on from there. Each step draws its
    randomness from a generator seeded with the step, so an interrupted run equals an uninterrupted one.
    """
    WORK.mkdir(exist_ok=True)
    state_path = WORK / f"{name}.pt"
    masters, start, seconds = Masters(module, rate, weight_decay), 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device(), weights_only=True)
        module.load_state_dict(state["module"])
        masters.restore(state["masters"])
        start, seconds = state["step"], state["seconds"]
        print(f"{name}: going on from step {start}", flush=True)
    began, total = time.perf_counter() - seconds, 0.0
    for step in range(start, steps):
        with sdpa_kernel(SDPBackend.MATH):  # for a few dozen tokens the CPU's fused attention is the slower one
            with autocast(module):
                value = loss(step, torch.Generator().manual_seed(step))
            value.backward()
        masters.step(step, _rate(step, steps))
        total += value.detach()
        if (step + 1) % 100 == 0:
            spent = time.perf_counter() - began
            left = spent / (step + 1) * (steps - step - 1)
            print(f"{name} {step + 1}/{steps} loss {float(total) / 100:.4f} {spent:.0f}s, {left:.0f}s left", flush=True)
            total = 0.0
        if (step + 1) % preview_every == 0 or step + 1 == steps:
            state = {"module": module.state_dict(), "masters": masters.state(), "step": step + 1}
            _save(state_path, {**state, "seconds": time.perf_counter() - began})
            masters.show(masters.averaged)
            print(f"{name} {step + 1}: {preview(WORK / f'{name}.png')}", flush=True)
            masters.show(masters.values)
    module.float()
    masters.parameters = _trained(module)
    masters.show(masters.averaged)
