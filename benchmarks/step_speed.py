"""A training step of the starter, now and at another commit: `python -m benchmarks.step_speed --against COMMIT`

Both are trained in turn by the training script, each time in a process of its own, so that what else slows the machine
meets both. A step is what `Loop.update` does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.table import write_table
from vf_dreambooth.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".md")
BEFORE = "e04a697"  # the last commit before what docs/gpu.md describes
ROUNDS, STEPS, WARM_UP = 3, 13, 3
GOAL = 1.3


def seconds_of_steps(tree: Path, precision: str) -> list[float]:
    """Seconds of each step of a short training, by the code in the folder `tree`, in this process."""
    sys.path.insert(0, str(tree))
    import train_dreambooth_vectorfit as script

    seconds: list[float] = []
    update = script.Loop.update

    def timed(*given: object) -> object:
        began = time.perf_counter()
        result = update(*given)
        seconds.append(time.perf_counter() - began)
        return result

    script.Loop.update = timed
    with tempfile.TemporaryDirectory() as folder:
        photos, others = (ROOT / "examples" / name for name in ("dog", "bear"))
        # By its folder: the other commit's own starter may be another model.
        base, preset = ROOT / "starter" / "weights" / "pipeline", PRESETS["starter"]
        flags = ("--instance_dir", photos, "--class_data_dir", others, "--base_model", base)
        sizes = ("--resolution", preset.resolution, "--learning_rate", preset.learning_rate, "--max_train_steps", STEPS)
        sizes += ("--mixed_precision", precision, "--num_validation_images", 0)
        script.main([*map(str, (*flags, *sizes, "--output_dir", Path(folder) / "run"))])
    return seconds[WARM_UP:]


def measured(tree: Path, precision: str) -> float:
    """The seconds of the fastest step, by a new process."""
    command = [sys.executable, "-m", "benchmarks.step_speed", "--tree", str(tree), "--precision", precision]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(min(json.loads(done.stdout.splitlines()[-1])))


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True, capture_output=True)


def row(precision: str, rounds: list[tuple[float, float]]) -> list[str]:
    """A row of the table: `rounds` are the seconds before and now of each round."""
    before, now = (min(times) for times in zip(*rounds, strict=True))
    ratios = sorted(then / later for then, later in rounds)
    goal = "met" if before / now >= GOAL else "missed"
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return [precision, f"{before:.3f}", f"{now:.3f}", f"{before / now:.2f}", spread, goal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)  # of a process for one measurement
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.tree:
        seconds = seconds_of_steps(flags.tree, flags.precision)
        print(f"\n{json.dumps(seconds)}")
        return
    precisions = ["bf16", "no"] if torch.cpu._is_avx512_bf16_supported() else ["no"]
    with checked_out(flags.against) as tree:
        found = {
            precision: [(measured(tree, precision), measured(ROOT, precision)) for _ in range(ROUNDS)]
            for precision in precisions
        }
    header = ["precision", "s before", "s now", "before / now", "in each round", f"goal {GOAL}"]
    rows = sorted((row(precision, rounds) for precision, rounds in found.items()), key=lambda cells: cells[-1] == "met")
    notes = f"""Before is commit {flags.against}. Batch 4 + 4, the starter's preset. The fastest step of {ROUNDS}
rounds of {STEPS - WARM_UP} steps each, after {WARM_UP} for warming up. Only cores that do nothing else give ratios that
repeat. CPU, {torch.get_num_threads()} threads, torch {torch.__version__}."""
    title = "A training step of the starter"
    write_table(RESULT, title, f"python -m benchmarks.step_speed --against {flags.against}", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
