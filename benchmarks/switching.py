"""Measures a switch of subjects, and how much of it is composing the weights. `python -m benchmarks.switching`

On the starter, and on the full-size Stable Diffusion v1.4 with random weights.
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
from benchmarks.table import write_table
from vectorfit.modules import vectorfit_layers
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import adapted_models, set_subjects

RESULT = Path(__file__).with_suffix(".md")
REPEATS = 3


class StableDiffusionPipeline(SimpleNamespace):
    """The parts of a pipeline that a switch needs, under the name by which its family is known."""


def median(call: Callable[[], object]) -> float:
    """The median of the seconds that a call takes."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def write_two(models: dict, folder: Path) -> list[Path]:
    """Writes two subject files of random deltas. The models are unchanged afterwards, without factors."""
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
    """Composes U diag(d) V^T of every layer and adds it to the weight. Every switch needs this."""
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
    unet, text_encoder, vae = build(torch.device("cpu"))
    full_size = StableDiffusionPipeline(unet=unet, text_encoder=text_encoder, vae=vae)
    rows.append(row("Stable Diffusion v1.4, random weights", full_size))
    header = [
        "base",
        "first subject, s",
        "switch, s",
        "back to the base, s",
        "composing alone, s",
        "switch / composing",
    ]
    notes = f"""The first subject factorises every weight; the cache of factors was off. A switch reads the other
file, composes and merges; the base's weights were verified by their hash at the first. "Composing alone" adds
`U diag(d) V^T` to the weight of every layer, which every switch needs. Medians of {REPEATS}. Threads:
{torch.get_num_threads()}, float32."""
    write_table(RESULT, "Switching subjects", "python -m benchmarks.switching", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
