"""Training several subjects in one batch beside one after the other, on the starter: `python -m benchmarks.together`

Both are trained in turn in one process, a few steps at a time, so that a busy machine is as busy for both.
"""

import argparse
import math
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import train_dreambooth_vectorfit as script
from benchmarks.table import write_table
from vf_dreambooth import residency
from vf_dreambooth.base_models import load
from vf_dreambooth.interruption import Interruption
from vf_dreambooth.samplers import build_data_sampler
from vf_dreambooth.setup import Setup, prepare
from vf_dreambooth.stopwatch import Stopwatch
from vf_dreambooth.together_loop import Together
from vf_training.commands import hide_loading_bars

EXAMPLES, RESULT = Path(__file__).parents[1] / "examples", Path(__file__).with_suffix(".md")


def setups_of(subjects: list[str], folder: Path, flags: argparse.Namespace) -> list[Setup]:
    """The runs of some of `examples/`, at the preset but for what the command asks for."""
    photos = folder.parent / "photos"
    photos.mkdir(exist_ok=True)
    for name in subjects:
        if not (photos / name).exists():
            (photos / name).symlink_to(EXAMPLES / name)
    command: dict[str, Any] = {"--instance_dir": photos, "--base_model": "starter", "--output_dir": folder}
    # Which pictures the class has makes no difference to the time, and drawing them takes long.
    command |= {"--mixed_precision": flags.mixed_precision, "--class_data_dir": EXAMPLES / "clock"}
    command |= {"--together": len(subjects), "--num_validation_images": 0}
    setups, _ = prepare([str(part) for pair in command.items() for part in pair])
    return setups


def alone(setups: list[Setup], accelerator: Any, priors: dict) -> list[Any]:
    """A loop for each run, as the script makes it."""
    original = script.build_data_sampler
    script.build_data_sampler = lambda setup, pipe, acc: original(setup, pipe, acc, priors)
    try:
        pipes = [residency.moved_to(load(setup.base), accelerator.device) for setup in setups]
        pairs = zip(setups, pipes, strict=True)
        return [script.Loop(setup, pipe, accelerator, Stopwatch()) for setup, pipe in pairs]
    finally:
        script.build_data_sampler = original


def together(setups: list[Setup], accelerator: Any, priors: dict) -> Together:
    pipe = residency.moved_to(load(setups[0].base), accelerator.device)
    samplers = [build_data_sampler(setup, pipe, accelerator, priors) for setup in setups]
    models = script.adapted(pipe, setups[0].config.train_text_encoder)
    return Together(setups, pipe, models, samplers, accelerator)


def error(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm of the second."""
    distance = sum(float((one[name].detach() - two[name].detach()).square().sum()) for name in two)
    return math.sqrt(distance / sum(float(vector.detach().square().sum()) for vector in two.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", default=["cat", "dog", "bird", "car"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="updates in a round (default 4)")
    parser.add_argument("--mixed_precision", default="auto")
    flags = parser.parse_args()
    hide_loading_bars()
    with tempfile.TemporaryDirectory() as folder:
        row, errors, threads = measured(flags, Path(folder))
    names = ", ".join(flags.subjects)
    notes = f"""Seconds of a step of all subjects ({names}), the mean of a round of {flags.steps} steps, medians of
{flags.rounds} rounds in which both were trained in turn in one process; the ratio is that of each round, by the clock
and by the processor's time, with the lowest and highest round. A training's other parts (the base, class images and
their latents) are made once for all with `--together`, and are not in these figures. Threads: {threads}.

After {(flags.rounds + 1) * flags.steps} steps a subject's vectors differ from those of its own training by
{max(errors):.1e} of their norm at most: rounding, which AdamW enlarges where a gradient is nothing else."""
    header = [
        "subjects",
        "precision",
        "one after the other, s",
        "together, s",
        "ratio by the clock",
        "by the processor's time",
    ]
    write_table(RESULT, "Subjects trained together", "python -m benchmarks.together", header, [row], notes)
    print(RESULT.read_text())


def measured(flags: argparse.Namespace, folder: Path) -> tuple[list[str], list[float], int]:
    """The table's row, how far each subject's vectors are from those of its own training, and the threads."""
    own = setups_of(flags.subjects, folder / "alone", flags)
    shared = setups_of(flags.subjects, folder / "together", flags)
    accelerator, priors = script.start(own[0]), {}
    for setup in (*own, *shared):
        setup.run.path.mkdir(parents=True)
    loops, group = alone(own, accelerator, priors), together(shared, accelerator, priors)
    threads, interruption, times = torch.get_num_threads(), Interruption(), []
    for turn in range(flags.rounds + 1):  # the first warms up
        steps = range(turn * flags.steps + 1, (turn + 1) * flags.steps + 1)
        marks = [(time.perf_counter(), time.process_time())]
        for loop in loops:
            for step in steps:
                loop.update(step, interruption)
        marks.append((time.perf_counter(), time.process_time()))
        for _ in steps:
            group.update(group.members)
        marks.append((time.perf_counter(), time.process_time()))
        times.append([[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(marks)])
        print(times[-1], flush=True)
    times = times[1:]
    step_times = [statistics.median(one[way][0] for one in times) / flags.steps for way in (0, 1)]
    ratios = [[one[0][kind] / one[1][kind] for one in times] for kind in (0, 1)]
    cells = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
    pairs = zip(group.members, loops, strict=True)
    errors = [error(member.vectors, dict(loop.optimization.vectors)) for member, loop in pairs]
    row = [str(len(own)), str(own[0].config.mixed_precision), *(f"{time_:.2f}" for time_ in step_times), *cells]
    return row, errors, threads


if __name__ == "__main__":
    main()
