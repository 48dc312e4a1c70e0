"""How long a switch of subject takes, and how much of it is composing the weights. `python -m benchmarks.switching`

On the starter, and on Stable Diffusion v1.4 in its full size with random weights.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

import vectorfit as vf
from benchmarks.sd14_step import build
from benchmarks.starter_scores import write_table
from vectorfit.modules import vectorfit_layers
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import adapted_models, set_subjects

RESULT = Path(__file__).with_suffix(".md")
REPEATS = 3


def median(what: Callable[[], object]) -> float:
    """Seconds of the median run."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def write_two(models: dict, folder: Path) -> list[Path]:
    """Two subject files of random deltas; the models are left as they were, their factors gone."""
    vf.inject(models)
    files = []
    for number in range(2):
        torch.manual_seed(number)
        for vector in vf.vector_parameters(models).values():
            torch.nn.init.normal_(vector, std=1e-3)
        files.append(folder / f"{number}.safetensors")
        vf.save_vectors(models, files[-1], base_model="random")
    vf.remove(models)
    return files


@torch.no_grad()
def compose(models: dict) -> None:
    """U diag(d) V^T of every layer and its sum with the weight: what no switch can do without."""
    for _, layer in vectorfit_layers(models):
        layer.weight + (layer.U * layer.d_sigma) @ layer.Vh


def row(name: str, pipe: SimpleNamespace) -> list[str]:
    models = adapted_models(pipe)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        first, second = write_two(models, Path(folder))
        began = time.perf_counter()
        set_subjects(pipe, [(first, 1.0)])
        first_time = time.perf_counter() - began
        switch = median(lambda: (set_subjects(pipe, [(second, 1.0)]), set_subjects(pipe, [(first, 0.5)]))) / 2
        away = median(lambda: (set_subjects(pipe, []), set_subjects(pipe, [(first, 1.0)]))) - switch
        floor = median(lambda: compose(models))
    return [name, f"{first_time:.2f}", f"{switch:.3f}", f"{away:.3f}", f"{floor:.3f}", f"{switch / floor:.2f}"]


def main() -> None:
    os.environ["VECTORFIT_CACHE"] = "off"
    starter = load(resolve("starter"))
    rows = [row("starter", starter)]
    unet, text_encoder, _ = build(torch.device("cpu"))
    rows.append(row("Stable Diffusion v1.4, random weights", SimpleNamespace(unet=unet, text_encoder=text_encoder)))
    header = [
        "base",
        "first subject, s",
        "switch, s",
        "back to the base, s",
        "composing alone, s",
        "switch / composing",
    ]
    notes = f"""The first subject factorises every weight (kept on disk afterwards, here not). A switch reads
the other file, verifies the base's weights by their hash, composes and merges. "Composing alone" is the sum of weight
and `U diag(d) V^T` of every layer, without which no switch can do. Medians of {REPEATS}. Threads:
{torch.get_num_threads()}, float32."""
    write_table(RESULT, "Switching subjects", "python -m benchmarks.switching", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
