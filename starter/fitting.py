"""The one training loop of the starter: steady rate, averaged weights, bf16 where it is fast, resumable."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .layout import WORK


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """bf16 on CUDA and on CPUs with bf16 instructions; on others it is emulated, ten times slower than fp32."""
    fast = device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device().type, torch.bfloat16, enabled=fast)


def arguments(description: str, **defaults: float) -> argparse.Namespace:
    """Command line of a training script: one flag per default, of the default's type."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    return parser.parse_args()


def _rate(step: int, total: int, warmup: int = 200, cooldown: float = 0.25) -> float:
    """Warm-up, a steady rate, and a last quarter falling to zero: a longer run goes on from a shorter one's middle."""
    return min(1.0, (step + 1) / warmup, (total - step) / (cooldown * total))


class Averaged:
    """Exponential moving average of a module's parameters, with a horizon that grows with the run."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.module, self.decay = module, decay
        self.values = [p.detach().clone() for p in module.parameters()]

    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.module.parameters()], weight)

    def swap(self) -> None:
        """Exchanges the averaged and the trained weights."""
        for value, parameter in zip(self.values, self.module.parameters(), strict=True):
            kept = parameter.detach().clone()
            parameter.data.copy_(value)
            value.copy_(kept)


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
    """Trains `module` to lower `loss(step, generator)` and leaves the averaged weights in it.

    Every `preview_every` steps the averaged weights are previewed (`preview` draws a picture and returns a line of
    text) and the state is written to the work folder; started again, it goes on from there. Each step draws its
    randomness from a generator seeded with the step, so an interrupted run equals an uninterrupted one.
    """
    WORK.mkdir(exist_ok=True)
    state_path = WORK / f"{name}.pt"
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    averaged, start, seconds = Averaged(module), 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device(), weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.values, start, seconds = state["averaged"], state["step"], state["seconds"]
        print(f"{name}: going on from step {start}", flush=True)
    began, total = time.perf_counter() - seconds, 0.0
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate(step, steps)
        with sdpa_kernel(SDPBackend.MATH):  # for a few dozen tokens the CPU's fused attention is the slower one
            with autocast():
                value = loss(step, torch.Generator().manual_seed(step))
            value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update(step)
        total += value.detach()
        if (step + 1) % 100 == 0:
            spent = time.perf_counter() - began
            left = spent / (step + 1) * (steps - step - 1)
            print(f"{name} {step + 1}/{steps} loss {float(total) / 100:.4f} {spent:.0f}s, {left:.0f}s left", flush=True)
            total = 0.0
        if (step + 1) % preview_every == 0 or step + 1 == steps:
            averaged.swap()
            print(f"{name} {step + 1}: {preview(WORK / f'{name}.png')}", flush=True)
            averaged.swap()
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged.values}
            _save(state_path, {**state, "step": step + 1, "seconds": time.perf_counter() - began})
    averaged.swap()
