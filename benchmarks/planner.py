"""What the planner's arithmetic costs: both ways of every layer, timed: `python -m benchmarks.planner`

On the starter. The planner takes the way with fewer multiply-adds (`products.factored_is_cheaper`); timing each
distinct layer once on the device and taking the faster way would save what the last column says.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vectorfit as vf
from benchmarks.table import write_table
from vectorfit.layers import VectorFitLayer, VectorFitLinear
from vectorfit.modules import vectorfit_layers
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families import family_of
from vf_dreambooth.pipeline import adapted_models
from vf_training.device import synchronize

RESULT = Path(__file__).with_suffix(".md")
REPEATS = 15
Case = tuple[int, int, int]  # out, in, tokens


def cases_of(models: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[Case, list[VectorFitLinear]]:
    """The adapted linear layers that a forward pass calls, by shape and tokens; one as often as it is called."""
    found: dict[Case, list[VectorFitLinear]] = {}

    def note(layer: VectorFitLinear, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        tokens = given[0].numel() // given[0].shape[-1]
        found.setdefault((*layer.matrix(layer.weight).shape, tokens), []).append(layer)

    layers = [layer for _, layer in vectorfit_layers(models) if isinstance(layer, VectorFitLinear) and layer.vectors]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    forward()
    for hook in hooks:
        hook.remove()
    return {case: layers for case, layers in found.items() if layers[0].d_sigma is not None}


def seconds_of(layer: VectorFitLinear, tokens: int, dtype: torch.dtype | None) -> tuple[float, float]:
    """Seconds of forward and backward, factored and dense, timed in turn; `dtype` is autocast's, None: no autocast."""
    device, columns = layer.weight.device, layer.matrix(layer.weight).shape[1]
    x = torch.randn(tokens, columns, device=device, dtype=dtype or torch.float32, requires_grad=True)
    times: dict[bool, list[float]] = {True: [], False: []}
    own = VectorFitLayer.factored_is_cheaper
    try:
        for repeat in range(2 * (1 + REPEATS)):
            factored = repeat % 2 == 0
            VectorFitLayer.factored_is_cheaper = lambda *_, way=factored: way  # type: ignore[method-assign]
            synchronize()
            began = time.perf_counter()
            with torch.autocast(device.type, dtype) if dtype else nullcontext():
                y = layer(x)
            y.backward(torch.ones_like(y))
            synchronize()
            times[factored].append(time.perf_counter() - began)
    finally:
        VectorFitLayer.factored_is_cheaper = own  # type: ignore[method-assign]
    return statistics.median(times[True][1:]), statistics.median(times[False][1:])


def measure(
    models: Mapping[str, nn.Module], forward: Callable[[], object], dtype: torch.dtype | None
) -> dict[str, Any]:
    """Calls and those of them where the other way is faster, seconds of all by the planner, and what timing saves."""
    for model in models.values():
        model.train()
    calls, seconds, saved = Counter[str](), 0.0, 0.0
    for (*_, tokens), layers in cases_of(models, forward).items():
        factored, dense = seconds_of(layers[0], tokens, dtype)
        chosen, other = (factored, dense) if layers[0].factored_is_cheaper(tokens) else (dense, factored)
        calls["all"] += len(layers)
        calls["slower"] += len(layers) * (other < chosen)
        seconds += len(layers) * chosen
        saved += len(layers) * max(0.0, chosen - other)
    return {"calls": calls["all"], "slower": calls["slower"], "seconds": seconds, "saved": saved}


def main() -> None:
    base = resolve("starter")
    pipe = load(base)
    family, models = family_of(pipe), adapted_models(pipe)
    vf.inject(models)
    denoiser, prompts = family.denoiser(pipe), family.tokenize(pipe, ["a photo of sks dog", "a photo of a dog"])
    noisy, index = torch.randn(8, *family.latent_shape(pipe, base.preset.resolution)), torch.arange(8) // 4
    rows = []
    for name, dtype in (("float32", None), ("bf16", torch.bfloat16)):
        found = measure(models, lambda: denoiser(noisy, torch.full((8,), 500), prompts, index), dtype)
        share = f"{100 * found['saved'] / found['seconds']:.1f} %"
        rows.append([name, str(found["calls"]), str(found["slower"]), f"{found['seconds']:.4f}", share])
    header = ["precision", "layers called", "other way faster", "s of these layers", "timing would save"]
    notes = f"""A training step of the starter, batch 4 + 4. Forward and backward of each layer alone, the median of
{REPEATS}, both ways in turn. Noise makes the last column an upper bound: where both ways take the same, one of them is
always the faster. CPU, {torch.get_num_threads()} threads, torch {torch.__version__}."""
    write_table(RESULT, "The planner's choices", "python -m benchmarks.planner", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
