"""Forward and backward of one layer by every method, factored and dense: `python -m benchmarks.layer_speed`

Which of the two a VectorFit layer picks is `products.factored_is_cheaper`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.methods import Rebuilt
from benchmarks.table import write_table
from vectorfit.layers import VectorFitLinear
from vectorfit.pattern import DIAGONAL
from vectorfit.products import DenseProduct, FactoredProduct, SplitProduct, factored_is_cheaper

# out, in, tokens, dtype: layers of Stable Diffusion v1.4's UNet and of an encoder
SHAPES = (
    (320, 320, 8192, torch.float32),
    (2560, 320, 8192, torch.float32),
    (320, 1280, 8192, torch.float32),
    (640, 640, 4096, torch.float32),
    (1280, 1280, 2048, torch.bfloat16),
    (1280, 1280, 512, torch.bfloat16),
    (1280, 768, 308, torch.bfloat16),
    (768, 768, 2048, torch.bfloat16),
)
RESULT = Path(__file__).with_suffix(".md")
NOTES = """Time relative to the same frozen linear layer (forward, and backward to the input), median of interleaved
repeats in one process. "factored" and "dense" are the two ways of a VectorFit layer; the one that it
picks by a count of multiply-adds (`products.factored_is_cheaper`) is in bold. "split" is the way of a
base stored in bfloat16, the change beside the weight. "rebuild" composes the weight by autograd at every forward."""


class Lora(nn.Module):
    """The arithmetic of PEFT's LoRA layer, without its bookkeeping."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def ways(out: int, columns: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every method's forward on equal weights."""
    torch.manual_seed(0)
    base = nn.Linear(columns, out).requires_grad_(False)
    layer, full = VectorFitLinear(base), nn.Linear(columns, out)
    U, sigma, Vh, d_sigma, d_bias = layer.U, layer.sigma, layer.Vh, layer.d_sigma, layer.d_bias

    def factored(x: Tensor) -> Tensor:
        return FactoredProduct.apply(x, d_sigma, sigma, U, Vh, DIAGONAL, None, d_bias, base.bias)

    def dense(x: Tensor) -> Tensor:
        low = torch.bfloat16 if x.dtype == torch.bfloat16 else None
        return DenseProduct.apply(x, d_sigma, d_bias, base.weight, U, Vh, DIAGONAL, None, low, base.bias)

    def split(x: Tensor) -> Tensor:
        return SplitProduct.apply(x, d_sigma, base.weight, U, Vh, DIAGONAL, None, d_bias, base.bias)

    def plain(x: Tensor) -> Tensor:
        return F.linear(x, base.weight.to(x.dtype), base.bias.to(x.dtype))

    lora, rebuilt = Lora(base, 2), Rebuilt(base)
    own = {"factored": factored, "dense": dense, "split": split}
    return {"frozen": plain, "LoRA r=2": lora, "full": full, **own, "rebuild": rebuilt}


def measure(out: int, columns: int, tokens: int, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Median seconds of a forward and backward by method."""
    calls, x = ways(out, columns), torch.randn(tokens, columns, dtype=dtype, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                y = call(x)
            y.sum().backward()
            times[name].append(time.perf_counter() - began)
    return {name: sorted(found[1:])[repeats // 2] for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    flags = parser.parse_args()
    rows = []
    for out, columns, tokens, dtype in SHAPES:
        found = measure(out, columns, tokens, dtype, flags.repeats)
        ratios = {name: f"{seconds / found['frozen']:.2f}" for name, seconds in found.items() if name != "frozen"}
        picked = "factored" if factored_is_cheaper(tokens, out, columns) else "dense"
        ratios[picked] = f"**{ratios[picked]}**"
        rows.append([f"{out} x {columns}, {tokens}", str(dtype).removeprefix("torch."), *ratios.values()])
        print(*rows[-1], flush=True)
    header = ["out x in, tokens", "dtype", "LoRA r=2", "full", "factored", "dense", "split", "rebuild"]
    notes = f"{NOTES}\n\nMeasured on a CPU with {torch.get_num_threads()} threads, torch {torch.__version__}."
    write_table(RESULT, "One layer", "python -m benchmarks.layer_speed", header, rows, notes)


if __name__ == "__main__":
    main()
