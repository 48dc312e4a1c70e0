"""All that is promised of a GPU, measured: `python -m benchmarks.gpu` (at most 20 minutes on an H100).

Every part runs in a process of its own and leaves a file, so that a failure loses nothing else; the same command goes
on where it stopped. At the end there is a table named after the device, which begins with the goals that were missed.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import FULL, PARTS, TINY, Size
from benchmarks.table import write_table

RESULTS = Path(__file__).with_name("gpu")
LIMIT = 20 * 60  # seconds of all parts together
ORDER = ("missed", "not measured", "met")  # of the goals in the table
Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """What a part must reach: at most (or at least) `bound`, on devices whose name has `device` in it."""

    name: str
    value: Callable[[Found], float]
    bound: float
    at_least: bool = False
    device: str = ""

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _step(found: Found, method: str) -> float:
    return float(found[f"step, {method}"]["step"])


GOALS = (
    Goal("step, times the frozen floor", lambda f: _step(f, "vectorfit") / _step(f, "frozen"), 1.12),
    Goal("step, times LoRA's", lambda f: _step(f, "vectorfit") / _step(f, "lora 2"), 1.0),
    Goal("training, images/s", lambda f: 2 * FULL.batch / _step(f, "vectorfit"), 150, at_least=True, device="H200"),
    Goal("photos to subject, s", lambda f: f["photos to subject, class images"]["seconds"], 60, device="H100"),
    Goal(
        "photos to subject without prior, s", lambda f: f["photos to subject, no prior"]["seconds"], 20, device="H100"
    ),
    Goal("factorising, s", lambda f: f["factorising"]["seconds"], 5, device="H100"),
    Goal("training memory, GiB", lambda f: f["step, vectorfit"]["memory"] / 2**30, 14),
    Goal(
        "tasks' step, times LoRA's (the paper: 0.915)",
        lambda f: f["tasks, vectorfit"]["seconds"] / f["tasks, lora"]["seconds"],
        0.915,
    ),
)


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU"


def judged(found: Found, device: str) -> list[tuple[Goal, float | None, str]]:
    """Every goal with its value and "met", "missed", "not measured", or the device that it is for."""
    rows: list[tuple[Goal, float | None, str]] = []
    for goal in GOALS:
        try:
            value = goal.value(found)
        except KeyError:
            rows.append((goal, None, "not measured"))
            continue
        verdict = "met" if goal.met(value) else "missed"
        rows.append((goal, value, verdict if goal.device in device else f"for an {goal.device}"))
    return sorted(rows, key=lambda row: ORDER.index(row[2]) if row[2] in ORDER else len(ORDER))


def run_part(name: str, size: Size, work: Path, seconds: float) -> dict[str, Any]:
    """A part's result from a process of its own; where it fails, the last line of its errors under "error"."""
    flags = ["--part", name, "--work", str(work), *(["--tiny"] if size.tiny else [])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *flags], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def write(found: Found, device: str, folder: Path, size: Size) -> Path:
    """The JSON and the table of what was found; returns the table's path."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    content = {"device": device, "torch": torch.__version__, "size": asdict(size), "parts": found}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    goals = [
        [
            goal.name,
            "" if value is None else f"{value:.3g}",
            f"{'>=' if goal.at_least else '<='} {goal.bound:g}",
            verdict,
        ]
        for goal, value, verdict in judged(found, device)
    ]
    parts = "\n".join(
        f"- {part}: "
        + ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
        )
        for part, values in found.items()
    )
    sizes = "tiny sizes, which say nothing of speed" if size.tiny else "Stable Diffusion v1.4's sizes, random weights"
    notes = f"{device}, torch {torch.__version__}, {sizes}. Seconds, bytes of memory at the peak.\n\n{parts}"
    table = folder / f"{name}.md"
    command = f"python -m benchmarks.gpu{' --tiny' if size.tiny else ''}"
    write_table(table, f"On {device}", command, ["goal", "measured", "wanted", ""], goals, notes)
    return table


def measure_all(size: Size, folder: Path, parts: Mapping[str, object] = PARTS, limit: float = LIMIT) -> Path:
    """Runs every part that has no result yet, and writes the table after each."""
    device, began = device_name(), time.perf_counter()
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in parts:
        file = work / f"{re.sub('[^a-z0-9]+', '-', f'{device} {name}'.lower())}.json"
        left = limit - (time.perf_counter() - began)
        if file.exists():
            found[name] = json.loads(file.read_text())
        elif left > 0:
            found[name] = run_part(name, size, work, left)
            if "error" not in found[name]:
                file.write_text(json.dumps(found[name]))
        else:
            found[name] = {"error": "no time left; the same command goes on"}
        print(name, found[name], file=sys.stderr, flush=True)
        table = write(found, device, folder, size)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny models: tries the code, on a CPU too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # of a process for one part
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    size = TINY if flags.tiny else FULL
    if flags.part:
        print(json.dumps(PARTS[flags.part](size, flags.work)))
        return
    if not flags.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device; --tiny tries the code on a CPU")
    print(measure_all(size, flags.out).read_text())


if __name__ == "__main__":
    main()
