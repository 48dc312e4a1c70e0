"""Eight subjects in one batch beside one merged subject, and 64 of a bank beside their solo runs.

`python -m benchmarks.bank`; all on the starter. The subjects are mixes of the shipped ones.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import vectorfit as vf
from benchmarks.table import write_table
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import (
    GenerationSettings,
    adapted_models,
    generate,
    generate_images,
    load_pipeline,
    set_subjects,
    subject_bank,
)
from vf_training.commands import hide_loading_bars

SHIPPED = sorted((Path(__file__).parents[1] / "examples" / "trained").glob("*.safetensors"))
RESULT = Path(__file__).with_suffix(".md")
AT_ONCE, MANY = 8, 64


def write_mixes(pipe: DiffusionPipeline, folder: Path, count: int) -> list[Path]:
    """Subject files that are mixes of the shipped ones with random shares."""
    models, generator, files = adapted_models(pipe), torch.Generator().manual_seed(0), []
    for number in range(count):
        shares = torch.rand(len(SHIPPED), generator=generator)
        vf.set_subjects(models, list(zip(SHIPPED, (shares / shares.sum()).tolist(), strict=True)))
        files.append(folder / f"{number:02d}.safetensors")
        vf.save_vectors(models, files[-1], base_model="starter")
    set_subjects(pipe, [])
    return files


def prompts_of(count: int) -> list[str]:
    triggers = [vf.read_metadata(path)["modelspec.trigger_phrase"] for path in SHIPPED]
    return [f"a photo of {triggers[number % len(triggers)]}" for number in range(count)]


def seconds(draw: Callable[[], object]) -> tuple[float, float]:
    """Of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    draw()
    return time.perf_counter() - clock, time.process_time() - processor


def mixed(pipe: DiffusionPipeline, files: list[Path], settings: GenerationSettings) -> list[Image.Image]:
    """A picture of each file, in batches of different subjects."""
    bank = subject_bank(pipe, files)
    drawn = generate(
        pipe,
        prompts_of(len(files)),
        range(len(files)),
        settings,
        within=lambda indices: bank.rows([str(files[index]) for index in indices]),
    )
    return [one.image for one in drawn]


def throughput(
    pipe: DiffusionPipeline, files: list[Path], settings: GenerationSettings, rounds: int
) -> list[list[str]]:
    """Rounds of eight pictures of one merged subject and of eight subjects, in turn."""
    of_one, of_eight, ratios = [], [], []
    for _ in range(rounds + 1):  # the first warms up
        set_subjects(pipe, [(files[0], 1.0)])
        one = seconds(lambda: generate_images(pipe, prompts_of(AT_ONCE), range(AT_ONCE), settings))
        eight = seconds(lambda: mixed(pipe, files[:AT_ONCE], settings))
        of_one.append(one[0])
        of_eight.append(eight[0])
        ratios.append((one[0] / eight[0], one[1] / eight[1]))
    clock, processor = (statistics.median(ratio[kind] for ratio in ratios[1:]) for kind in (0, 1))
    low, high = min(r[1] for r in ratios[1:]), max(r[1] for r in ratios[1:])
    return [
        [
            f"{AT_ONCE} subjects in a batch of {AT_ONCE} pictures",
            f"{100 * clock:.0f} %",
            f"{100 * processor:.0f} % ({100 * low:.0f} to {100 * high:.0f})",
        ]
    ]


def largest_difference(pipe: DiffusionPipeline, files: list[Path], settings: GenerationSettings) -> tuple[int, float]:
    """Between pictures drawn mixed and solo: the largest in grey levels, and the share of equal pixels."""
    together, worst, equal = mixed(pipe, files, settings), 0, []
    alone = replace(settings, batch_size=1)
    for number, file in enumerate(files):
        set_subjects(pipe, [(file, 1.0)])
        (solo,) = generate_images(pipe, [prompts_of(len(files))[number]], [number], alone)
        difference = np.abs(np.asarray(solo, np.int16) - np.asarray(together[number], np.int16))
        worst = max(worst, int(difference.max()))
        equal.append(float((difference == 0).mean()))
    return worst, statistics.fmean(equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=MANY, help=f"default {MANY}")
    flags = parser.parse_args()
    hide_loading_bars()
    base = resolve("starter")
    pipe = load_pipeline(base)
    pipe.set_progress_bar_config(disable=True)
    settings = GenerationSettings.of(base.preset, AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        files = write_mixes(pipe, Path(folder), max(AT_ONCE, flags.many))
        rows = throughput(pipe, files, settings, flags.rounds)
        print(rows, flush=True)
        worst, equal = largest_difference(pipe, files[: flags.many], settings)
    notes = f"""Throughput of the bank, its making included, relative to one merged subject in a batch of that size,
{settings.num_inference_steps} steps: medians of {flags.rounds} rounds in which both were drawn in turn, by the clock
and by the processor's time (lowest and highest round). Threads: {torch.get_num_threads()}, float32.

**{flags.many} subjects in one bank**, drawn in batches of {AT_ONCE} different ones, beside each subject's solo run in a
batch of its own: the largest difference of any pixel is {worst} grey level{"s" * (worst != 1)} of 255;
{100 * equal:.2f} % are equal."""
    header = ["", "throughput by the clock", "by the processor's time"]
    write_table(RESULT, "Many subjects in one batch", "python -m benchmarks.bank", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
