"""The miniature DreamBench: every method on twelve subjects. `python -m benchmarks.dreambooth_table`

With `--tune` each method's rate and steps are chosen first. With `--cost` its seconds and memory are measured;
nothing else should run on the machine then. The same command resumes a stopped run; processes may share the methods.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.dreambooth_trials import BIASES, KEPT, PROTOCOL, SCORES, Tuning, measure_cost, read_costs, trial
from benchmarks.table import write_table
from eval import scoring
from eval.comparison import KINDS, compare
from eval.intervals import estimate
from starter.subjects import SUBJECTS
from vf_dreambooth.images import grid
from vf_training import methods
from vf_training.analysis import save_figure

RESULT = Path(__file__).with_suffix(".md")
SEEDS = {"full": 3, "lora": 3, "no_avf": 3, "vectorfit": 3}  # of the others, one
METHODS = methods.names(methods.DREAMBOOTH)
VARIANTS = tuple(name for name in reversed(METHODS) if methods.find(name).is_variant)  # Fig. 4
REGULARIZED = ("random_freezing", "l1", "sigma_dropout")
SHOWN = ("full", "lora", "no_avf", "vectorfit")  # in the grid of pictures
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # by method, a result a seed


def results() -> dict[str, list[dict[str, Any]]]:
    """All existing results by method, in the order of seeds."""
    files = {method: sorted(SCORES.glob(f"{method}-[0-9].json")) for method in METHODS}
    return {method: [scoring.read(file) for file in mine] for method, mine in files.items() if mine}


def _over_seeds(runs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[float]]:
    """Scores by subject, over all seeds."""
    return {
        name: [image[kind] for run in runs for image in run["subjects"][name]["images"]] for name in runs[0]["subjects"]
    }


def _mean(runs: Sequence[Mapping[str, Any]], part: str, name: str) -> float:
    return sum(float(run[part][name]) for run in runs) / len(runs)


def _interval(mean: float, low: float, high: float, sign: str = "") -> str:
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


RECOGNISED = {"noun": "noun", "ground": "ground right", "class": "class kept"}


def frame(found: Results) -> Iterator[list[str]]:
    """The rows that all others are read between: the photos themselves, and the base's pictures of the class."""
    overall = next(iter(found.values()))[0]["overall"]
    seen = overall["recognised"]
    shares = {"photos": [seen["photos noun"], None, None], "base": [seen["base noun"], seen["base ground"], None]}
    for key, title in {"photos": "the photos themselves", "base": "the base, asked for the class"}.items():
        numbers = [*(overall[key][kind] for kind in KINDS), *shares[key]]
        yield [title, "", *("" if number is None else f"{number:.3f}" for number in numbers), *[""] * 8]


def rows_of(found: Results) -> Iterator[list[str]]:
    costs = read_costs()
    yield from frame(found)
    for method, runs in found.items():
        estimates = [estimate(_over_seeds(runs, kind)) for kind in KINDS]
        cells = [_interval(one.mean, one.low, one.high) for one in estimates]
        seen = [run["overall"]["recognised"] for run in runs]
        panel = [f"{fmean(one[name] for one in seen):.3f}" for name in RECOGNISED]
        panel += [f"{_mean(runs, 'overall', name):.3f}" for name in ("pres", "drift", "diversity")]
        sizes = [f"{_mean(runs, 'facts', name):,.0f}" for name in ("parameters", "bytes")]
        cost = costs.get(method)
        spent = [f"{cost['seconds']:.0f}", f"{cost['memory'] / 2**30:.2f}"] if cost else ["", ""]
        yield [method, str(len(runs)), *cells, *panel, str(Tuning(method).best), *sizes, *spent]


def differences(found: Results) -> Iterator[str]:
    """VectorFit minus each other method on equal subjects, prompts and seeds, over the seeds that both have."""
    mine = {run["facts"]["seed"]: run for run in found.get("vectorfit", [])}
    for method, runs in found.items():
        pairs = [(mine[run["facts"]["seed"]], run) for run in runs if run["facts"]["seed"] in mine]
        if method == "vectorfit" or not pairs:
            continue
        scores = compare(_pooled([first for first, _ in pairs]), _pooled([second for _, second in pairs]))
        parts = [
            f"{label} {_interval(scores[kind]['difference'], scores[kind]['low'], scores[kind]['high'], '+')}"
            for label, kind in zip(PROTOCOL.labels, KINDS, strict=True)
        ]
        yield f"- vectorfit minus {method} ({len(pairs)} {'seed' if len(pairs) == 1 else 'seeds'}): {', '.join(parts)}"


def _pooled(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several training seeds as one. The training seed is added to the images' seeds."""
    subjects = {
        name: {
            **subject,
            "images": [
                {**image, "seed": 1_000_000 * place + image["seed"]}
                for place, run in enumerate(runs)
                for image in run["subjects"][name]["images"]
            ],
        }
        for name, subject in runs[0]["subjects"].items()
    }
    return {**runs[0], "subjects": subjects}


def write_results(found: Results) -> None:
    header = [
        "method",
        "seeds",
        *PROTOCOL.labels,
        *RECOGNISED.values(),
        "PRES ↓",
        "drift ↓",
        "diversity ↑",
        "rate x steps",
    ]
    header += ["parameters", "bytes", "seconds", "peak GiB"]
    lacking = [method for method in METHODS if method not in found]
    unmeasured = [method for method in found if method not in read_costs()]
    open_ends = f"Not run yet: {', '.join(lacking)}. " if lacking else ""
    open_ends += f"Seconds and memory not measured yet: {', '.join(unmeasured)}." if unmeasured else ""
    notes = f"""Twelve subjects that the starter never saw, five photos each; DreamBench's prompts that its world knows
(12 for animals, 20 for things), four pictures each. Cosines by the starter's own encoders: no score here compares with
a published one. A score is read between the first two rows. "Noun" is the share of the subject's pictures in which the
judge, which knows 206 nouns, sees the subject's; "class kept" the same of the class's pictures. In brackets 95 %
intervals over subjects, seeds together. Rate and steps are those with the highest DINO on four other subjects, of those
with ground right and class kept in {KEPT:.0%} (`dreambooth_scores/tuning/`, seed 0, with the command's `--tune`);
biases have {BIASES:g} of sigma's rate. Seconds and peak memory are of one training each of one subject (the dog), one
after the other with nothing beside them (`--cost`); they include loading, factorising and encoding, not the drawing of
class images. Where the best settings lie at the end of what was tried (three rates, three lengths), better ones may lie
beyond. The weight of L1 (1e-5) and the rate of dropout on sigma (0.05) were not tuned at all.

{open_ends}

Differences on equal subjects, prompts and seeds, with 95 % intervals over subjects:

{chr(10).join(differences(found))}

![score against parameters](dreambooth_pareto.png)

![ablation](dreambooth_ablation.png)

![pictures](dreambooth_grid.jpg)"""
    title = "The miniature DreamBench"
    write_table(RESULT, title, "python -m benchmarks.dreambooth_table", header, list(rows_of(found)), notes)
    pareto(found)
    ablation(found)
    pictures(found)


def pareto(found: Results) -> None:
    """Score against trained parameters, as in Fig. 1. Methods with about the same number are moved apart."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    labels, axes = dict(zip(KINDS, PROTOCOL.labels, strict=True)), figure.subplots(1, 2)
    colours = matplotlib.colormaps["tab20"]
    for axis, kind in zip(axes, ("dino", "clip_t"), strict=True):
        beside: Counter[int] = Counter()  # points that are already at about this number of parameters
        for number, (method, runs) in enumerate(found.items()):
            told, parameters = estimate(_over_seeds(runs, kind)), _mean(runs, "facts", "parameters")
            place = parameters * 1.12 ** beside[round(5 * math.log10(parameters))]
            beside[round(5 * math.log10(parameters))] += 1
            spread = [[told.mean - told.low], [told.high - told.mean]]
            look = {"fmt": "*" if method == "vectorfit" else "o", "ms": 12 if method == "vectorfit" else 7}
            axis.errorbar(place, told.mean, spread, color=colours(number), elinewidth=1, label=method, **look)
        axis.set_xscale("log")
        axis.set_xlabel("trained parameters")
        axis.set_ylabel(labels[kind])
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    save_figure(figure, RESULT.with_name("dreambooth_pareto.png"))


def ablation(found: Results) -> None:
    """The paper's variants as bars, as in Fig. 4, and the methods that AVF is compared with."""
    names = [name for name in (*VARIANTS, *REGULARIZED) if name in found]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axis, kind, label in zip(figure.subplots(1, 3), KINDS, PROTOCOL.labels, strict=True):
        told = [estimate(_over_seeds(found[name], kind)) for name in names]
        spread = [[one.mean - one.low for one in told], [one.high - one.mean for one in told]]
        colors = ["tab:orange" if name == "vectorfit" else "0.65" for name in names]
        axis.bar(names, [one.mean for one in told], yerr=spread, color=colors, capsize=3)
        axis.set_title(label, fontsize=10)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axis.set_ylim(bottom=min((one.low for one in told), default=0) - 0.05)
    save_figure(figure, RESULT.with_name("dreambooth_ablation.png"))


def _picture(result: Mapping[str, Any], subject: str, prompt: str, seed: int) -> Image.Image:
    mine = result["subjects"][subject]
    file = next(image["file"] for image in mine["images"] if (image["prompt"], image["seed"]) == (prompt, seed))
    return Image.open(SCORES / mine["folder"] / file)


def pictures(found: Results) -> None:
    """A photo, and every shown method's picture of one prompt and seed, for each subject: Fig. 11.

    The pictures lie with the runs; where these are gone, the sheet stays as it is.
    """
    shown = [name for name in SHOWN if name in found]
    rows, titles = [], []
    for place, name in enumerate(SUBJECTS):
        if not shown or not (SCORES / found[shown[0]][0]["subjects"][name]["folder"]).exists():
            return
        subject = found[shown[0]][0]["subjects"][name]
        asked = subject["images"][(4 * place) % len(subject["images"])]
        photo = Image.open(SCORES / subject["reference_files"][0])
        rows.append([photo, *(_picture(found[method][0], name, asked["prompt"], asked["seed"]) for method in shown)])
        titles.append(f"{asked['prompt']}   (photo | {' | '.join(shown)})")
    sheet = grid(rows, row_titles=titles, cell=128)
    sheet.convert("RGB").save(RESULT.with_name("dreambooth_grid.jpg"), quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="choose the methods' rates and steps first")
    parser.add_argument("--cost", action="store_true", help="measure seconds and memory of a training of each")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--draw", action="store_true", help="only write table and figures of the results there are")
    flags = parser.parse_args()
    for method in flags.methods if flags.tune else ():
        Tuning(method).run()
    for method in flags.methods if flags.cost else ():
        measure_cost(method)
    if not (flags.draw or flags.cost):
        for seed in range(max(SEEDS.values())):
            for method in flags.methods:
                if seed < SEEDS.get(method, 1):
                    trial(method, seed)
    write_results(results())


if __name__ == "__main__":
    main()
