"""A training step of whole models, method by method. `python -m benchmarks.model_speed`

(a) the starter's UNet at batch 8; (b) Stable Diffusion v1.4's UNet, random weights, 32 x 32 latents, batch 4; (c) an
encoder of 12 layers of 768, 128 tokens, batch 16. Every method runs in a process of its own, so that peaks do not mix.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from benchmarks.methods import EXPLAINED, METHODS, adapt
from benchmarks.table import write_table
from vf_dreambooth.base_models import starter_folder
from vf_training.analysis import save_figure
from vf_training.device import best_device, describe_device, peak_memory, synchronize

RESULT = Path(__file__).with_suffix(".md")
REPEATS = {"starter": 8, "sd14": 3, "encoder": 5}
NOTES = f"""{EXPLAINED}
Seconds are the fastest of several steps after one for warming up, forward, backward and AdamW;
ratios are to the floor of the same run. Memory is the peak of the whole process (on CUDA, of the allocator)."""


def starter() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Tensor]:
    unet = UNet2DConditionModel.from_pretrained(starter_folder() / "unet", dtype=torch.float32)
    words = torch.randn(8, 32, unet.config.cross_attention_dim)
    latents = torch.randn(8, unet.config.in_channels, 16, 16)
    return unet, lambda model, x: model(x, torch.tensor(500), words.to(x.device)).sample, latents


def sd14() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Tensor]:
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
    )
    words = torch.randn(4, 77, 768)
    return unet, lambda model, x: model(x, torch.tensor(500), words.to(x.device)).sample, torch.randn(4, 4, 32, 32)


def encoder() -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor], Tensor]:
    model = BertModel(BertConfig(), add_pooling_layer=False)
    return model, lambda model, x: model(inputs_embeds=x).last_hidden_state, torch.randn(16, 128, 768)


CASES = {"starter": starter, "sd14": sd14, "encoder": encoder}


def measure(case: str, method: str, dtype: str) -> dict[str, float]:
    """Seconds per step, peak bytes, and the numbers trained."""
    torch.manual_seed(0)
    device = torch.device(best_device())
    model, run, x = CASES[case]()
    models = {"model": model.to(device)}
    parameters = adapt(method, models)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5) if parameters else None
    x, seconds = x.to(device).requires_grad_(True), []
    for _ in range(1 + REPEATS[case]):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(models["model"], x).float().square().mean()
        loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        x.grad = None
        synchronize()
        seconds.append(time.perf_counter() - began)
    return {"step": min(seconds[1:]), "memory": peak_memory(), "trained": sum(p.numel() for p in parameters)}


def draw(rows: list[list[str]]) -> None:
    """The ratios to the frozen floor as bars, a panel per model and dtype."""
    panels: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for case, dtype, method, _, _, ratio, _ in rows:
        panels.setdefault((case, dtype), []).append((method, float(ratio)))
    figure = Figure(figsize=(3.6 * len(panels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((case, dtype), found) in zip(axes, panels.items(), strict=True):
        names, ratios = zip(*reversed(found), strict=True)
        bars = axis.barh(names, ratios, color=["tab:orange" if name == "vectorfit" else "0.65" for name in names])
        axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], fontsize=8, padding=2)
        axis.set_title(f"{case}, {dtype}", fontsize=10)
        axis.set_xlim(0, 1.15 * max(ratios))
        axis.set_xlabel("time of a step, frozen model = 1", fontsize=8)
    save_figure(figure, RESULT.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtypes", nargs="+", choices=("bf16", "fp32"), default=["bf16"])
    parser.add_argument("--here", action="store_true", help="measure the one case and method in this process, as JSON")
    flags = parser.parse_args()
    if flags.here:
        print(json.dumps(measure(flags.cases[0], flags.methods[0], flags.dtypes[0])))
        return
    rows = []
    for case in flags.cases:
        for dtype in flags.dtypes:
            floor = 0.0
            for method in flags.methods:
                command = [sys.executable, "-m", "benchmarks.model_speed", "--here", "--cases", case]
                command += ["--methods", method, "--dtypes", dtype]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                floor = floor or found["step"]
                numbers = [f"{found['step']:.3f}", f"{found['step'] / floor:.2f}", f"{found['memory'] / 2**30:.2f}"]
                rows.append([case, dtype, method, f"{found['trained']:,}", *numbers])
                print(*rows[-1], flush=True)
    header = ["model", "dtype", "method", "numbers trained", "s per step", "ratio", "peak GiB"]
    notes = f"{NOTES}\n\nMeasured on: {describe_device()}, torch {torch.__version__}."
    command = f"python -m benchmarks.model_speed --dtypes {' '.join(flags.dtypes)}"
    write_table(
        RESULT, "A training step of whole models", command, header, rows, f"{notes}\n\n![ratios](model_speed.png)"
    )
    draw(rows)


if __name__ == "__main__":
    main()
