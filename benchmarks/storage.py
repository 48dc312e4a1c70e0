"""How factors are kept: error, time and bytes on layers of real shapes: `python -m benchmarks.storage`

`--large` adds the shapes of Llama-3-8B, whose factors take minutes to compute on a CPU.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.table import write_table
from vectorfit.factor_cache import factors
from vectorfit.factor_storage import STORAGES, factor_bytes, stored_dtype, tail_start
from vectorfit.layers import VectorFitLinear
from vectorfit.pattern import DIAGONAL

RESULT = Path(__file__).with_suffix(".md")
STARTER = Path(__file__).parents[1] / "starter" / "weights"
MODEL_SHAPES = ((1280, 1280), (10240, 1280), (1280, 5120), (1024, 4096))  # of Stable Diffusion v1.4 and Llama-3-8B
LARGE_SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))  # of Llama-3-8B
SMALLEST = 256  # of the starter's layers that are measured
TOKENS, CHANGE, SMALL = 256, 1e-2, 1e-4  # changes of the singular values, relative to the mean one
HEADER = [
    *(
        "weight",
        "precision",
        "storage",
        "MiB",
        "tail",
        "error of the change",
        "output, x plain",
        "arrives",
        "of 0.01 %",
    ),
    *("error of d_sigma's gradient", "of the input's", "step, x frozen"),
]
NOTES = """The change is `U diag(d_sigma) Vh x`, with random `d_sigma` of 1 % of the mean singular value; 256 tokens.
"error of the change" is relative, against float64, of what the layer adds to its base. In bfloat16 the base's own
output is rounded by more than that, so "output, x plain" gives the error of the whole output over what rounding the
exact one to bfloat16 costs. "arrives" is the share of the change that is in the output, by projection: below 1.00
it is biased; "of 0.01 %" is the same for a change a hundredth as large, where rounding makes it noisy. "step" is
forward and backward of a layer over that of the frozen one, median of interleaved repeats in one process. MiB are
the factors' alone, the tail included; "tail" is the share of directions that keep both factors."""


def starter_weights() -> Iterator[tuple[str, Tensor]]:
    """The largest trained weights of the starter, one of each shape."""
    seen: set[torch.Size] = set()
    for path in sorted(STARTER.rglob("*.safetensors")):
        for name, weight in load_file(path).items():
            if weight.ndim == 2 and min(weight.shape) >= SMALLEST and "embed" not in name and weight.shape not in seen:
                seen.add(weight.shape)
                yield f"starter {weight.shape[0]} x {weight.shape[1]}", weight.float()


def random_weights(shapes: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Tensor]]:
    for out, columns in shapes:
        generator = torch.Generator().manual_seed(out + columns)
        yield f"random {out} x {columns}", torch.randn(out, columns, generator=generator) / columns**0.5


def layer_of(weight: Tensor, storage: str, dtype: torch.dtype, change: float = CHANGE) -> VectorFitLinear:
    """A layer in training with a change in it."""
    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    base.weight.data = weight.to(dtype)
    layer = VectorFitLinear(base, ("sigma",), DIAGONAL, storage).train()
    assert layer.d_sigma is not None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        layer.d_sigma.copy_(torch.randn(layer.d_sigma.shape, generator=generator) * change * layer.sigma.mean())
    return layer


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def errors(weight: Tensor, storage: str, dtype: torch.dtype) -> list[str]:
    """The errors of one storage: of change and output, the share that arrives, and of both gradients."""
    layer = layer_of(weight, storage, dtype)
    assert layer.d_sigma is not None
    kept = layer.weight.detach().double()
    U, _, Vh = (factor.double() for factor in factors(layer.weight.detach()))
    x = torch.randn(TOKENS, weight.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    grad = torch.randn(TOKENS, weight.shape[0], generator=torch.Generator().manual_seed(2)).to(dtype)
    y = layer(x)
    y.backward(grad)
    exact, g, d = x.detach().double(), grad.double(), layer.d_sigma.detach().double()
    base, change = exact @ kept.T, ((exact @ Vh.T) * d) @ U.T
    added = y.detach().double() - base
    plain = (exact @ (kept + (U * d) @ Vh).T).to(dtype)  # what rounding the exact output costs
    rounding = relative(plain, base + change)
    d_sigma = ((g @ U) * (exact @ Vh.T)).sum(0)
    dx = g @ (kept + (U * d) @ Vh)
    assert x.grad is not None
    assert layer.d_sigma.grad is not None
    arrives = float((added * change).sum() / change.square().sum())
    faint = change * (SMALL / CHANGE)
    with torch.no_grad():
        faintly = layer_of(weight, storage, dtype, SMALL)(x).double() - base
    low = dtype == torch.bfloat16
    return [
        "" if low else f"{relative(added, change):.1e}",
        f"{relative(y.detach(), base + change) / rounding:.2f}" if low else "",
        f"{arrives:.3f}",
        f"{float((faintly * faint).sum() / faint.square().sum()):.2f}",
        f"{relative(layer.d_sigma.grad, d_sigma):.1e}",
        f"{relative(x.grad, dx):.1e}",
    ]


def step_ratios(weight: Tensor, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Time of forward and backward by storage, over that of the frozen layer."""
    frozen = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    frozen.weight.data = weight.to(dtype)
    calls: dict[str, nn.Module] = {"frozen": frozen}
    calls |= {storage: layer_of(weight, storage, dtype) for storage in STORAGES[1:]}
    x = torch.randn(TOKENS, weight.shape[1], dtype=dtype, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call(x).sum().backward()
            times[name].append(time.perf_counter() - began)
    medians = {name: sorted(found[1:])[repeats // 2] for name, found in times.items()}
    return {name: seconds / medians["frozen"] for name, seconds in medians.items()}


def rows_of(name: str, weight: Tensor, repeats: int) -> Iterator[list[str]]:
    """The table's rows of one weight."""
    for dtype in (torch.float32, torch.bfloat16):
        ratios = step_ratios(weight, dtype, repeats)
        _, sigma, _ = factors(weight.to(dtype))
        for storage in STORAGES[1:]:
            kept = stored_dtype(storage, weight.to(dtype))
            tail = len(sigma) - tail_start(sigma, kept) if storage == "square" else 0
            held = factor_bytes(storage, weight.shape, kept) + tail * max(weight.shape) * kept.itemsize
            told = f"{tail / len(sigma):.1%}" if storage == "square" else ""
            precision = "float32" if dtype == torch.float32 else "bfloat16"
            row = [name, precision, storage, f"{held / 2**20:.1f}", told, *errors(weight, storage, dtype)]
            yield [*row, f"{ratios[storage]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="Llama-3-8B's shapes too: minutes, and 10 GB of memory")
    flags = parser.parse_args()
    rows = []
    for name, weight in (*starter_weights(), *random_weights(MODEL_SHAPES + LARGE_SHAPES * flags.large)):
        for row in rows_of(name, weight, flags.repeats):
            rows.append(row)
            print(*row, flush=True)
    load = os.getloadavg()[0]
    notes = f"{NOTES}\n\nMeasured on a CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, at a load of "
    notes += f"{load:.1f} on {os.cpu_count()} cores: the ratios of time hold for such a machine only."
    write_table(RESULT, "Storage of factors", "python -m benchmarks.storage", HEADER, rows, notes)


if __name__ == "__main__":
    main()
