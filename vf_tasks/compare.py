"""Compares runs: means and spreads over seeds, score against parameters, the ablation, what was trained where.

Figures of the paper: 1 (score against parameters), 3 (training strength), 4 and 7 (ablation), 8 and 9 (spectra).
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vectorfit.vectors_file import pattern_of, read_vectors
from vf_training import methods
from vf_training.analysis import Weights, heatmap, of_full_fine_tuning, save_figure, spectra, strengths
from vf_training.runs import RunFolder

from .results import find, flat, read_result

ORDER = tuple(methods.METHODS)  # the order of a table's rows
SEEDS_DIFFER = ("seed", "data", "models")  # settings that may differ: a model or data set may be in another folder
COLOURS = tuple(f"C{number}" for number in range(10) if number != 1)  # the orange is VectorFit's
DRAWN = ("no_avf", "vectorfit")  # methods whose training strength is shown


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds."""

    method: str
    size: int
    relative: bool  # AVF's strength, to the rate
    results: list[dict[str, Any]]
    runs: list[RunFolder]

    @property
    def label(self) -> str:
        return self.method + (f" {self.size}" if self.size else "") + (" relative" if self.relative else "")

    @property
    def rate(self) -> str:
        """The learning rates that were tuned."""
        result = self.results[0]
        recipe = result["settings"]["recipe"]
        biases = recipe.get("bias_lr") if methods.find(self.method).trains_biases else None
        return f"{result['learning_rate']:g}" + (f", biases {biases:g}" if biases else "")

    @property
    def scores(self) -> list[float]:
        return [float(result["score"]) for result in self.results]

    def mean(self, name: str = "score") -> float:
        return statistics.fmean(result[name] for result in self.results)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; 0 for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def groups(runs: Sequence[RunFolder]) -> dict[str, list[Group]]:
    """The runs by table, grouped by method and size. A table is of one recipe, model, epochs and rows.

    Raises:
        VectorFitError: runs of one method differ in more than their seeds. Their mean would mean nothing.
    """
    tables: dict[str, dict[tuple[int, int, bool], Group]] = {}
    for run in runs:
        result = read_result(run)
        title = f"{result['recipe']} · {'/'.join(Path(result['model']).parts[-2:])} · {result['epochs']:g} epochs · "
        title += f"{result['train_rows']:,} rows" + (" · tiny" if result["tiny"] else "")
        title += f" · {result['settings']['holdout']:,} held out" if result["settings"]["holdout"] else ""
        method, size = result["method"], result["size"]
        freezes = methods.find(method).freezing is not None
        relative = freezes and result["settings"]["recipe"].get("avf_strength") == "relative"
        order = (ORDER.index(method), size, relative)
        group = tables.setdefault(title, {}).setdefault(order, Group(method, size, relative, [], []))
        _require_alike(run, result, group)
        group.results.append(result)
        group.runs.append(run)
    return {title: [by_order[order] for order in sorted(by_order)] for title, by_order in sorted(tables.items())}


def _require_alike(run: RunFolder, result: Mapping[str, Any], group: Group) -> None:
    if any(other["seed"] == result["seed"] for other in group.results):
        raise VectorFitError(
            f"{run.path}: a second run of {group.label} with seed {result['seed']}; leave one of them out"
        )
    for other in group.results[:1]:
        settings, other_settings = flat(result["settings"]), flat(other["settings"])
        unlike = [n for n in settings if n not in SEEDS_DIFFER and settings[n] != other_settings.get(n)]
        if unlike:
            raise VectorFitError(
                f"{run.path}: {group.label} with {unlike[0]} = {settings[unlike[0]]!r}, but in {group.runs[0].path} "
                f"it is {other_settings.get(unlike[0])!r}; compare them separately"
            )


HEADER = (
    *("method", "seeds", "score", "all scores", "parameters", "% of the base", "efficiency", "head", "rate"),
    *("s / epoch", "peak GiB", "file bytes"),
)


def row(group: Group) -> list[str]:
    """A group's row of the table; the columns are `HEADER`'s."""
    score = f"{group.mean():.2f}" + (f" ± {group.spread:.2f}" if len(group.scores) > 1 else "")
    names = [name for name in group.results[0]["scores"] if all(name in result["scores"] for result in group.results)]
    every = ", ".join(
        f"{name} {statistics.fmean(result['scores'][name] for result in group.results):.2f}" for name in names
    )
    efficiency = group.results[0]["efficiency"]
    return [
        group.label,
        str(len(group.scores)),
        score,
        every,
        f"{group.mean('parameters'):,.0f}",
        f"{group.mean('percent_parameters'):.4f}",
        "" if efficiency is None else f"{group.mean('efficiency'):,.0f}",
        f"{group.mean('head_parameters'):,.0f}",
        group.rate,
        f"{group.mean('seconds_per_epoch'):.1f}",
        f"{group.mean('peak_memory') / 2**30:.2f}",
        f"{group.mean('file_bytes'):,.0f}",
    ]


def table(title: str, table_groups: Sequence[Group]) -> str:
    """A Markdown table of groups."""
    lines = [
        f"## {title}",
        "",
        f"Score: {table_groups[0].results[0]['metric']}, mean ± standard deviation over seeds.",
        "",
    ]
    lines += ["| " + " | ".join(HEADER) + " |", "|" + "--|" * len(HEADER)]
    return "\n".join([*lines, *("| " + " | ".join(row(group)) + " |" for group in table_groups)]) + "\n"


def pareto(title: str, table_groups: Sequence[Group]) -> Figure:
    """Score against the share of parameters trained. Fig. 1."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, group in enumerate(group for group in table_groups if group.mean("parameters")):
        star = group.label == "vectorfit"
        axis.errorbar(
            group.mean("percent_parameters"),
            group.mean(),
            group.spread or None,
            fmt="*" if star else "os^DvPX"[number % 7],
            ms=14 if star else 7,
            color="tab:orange" if star else COLOURS[number % len(COLOURS)],
            label=group.label,
            elinewidth=1,
            capsize=2,
        )
    axis.set_xscale("log")
    axis.set_xlabel("trained parameters, % of the pretrained model")
    axis.set_ylabel(table_groups[0].results[0]["metric"])
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def ablation(title: str, table_groups: Sequence[Group]) -> Figure | None:
    """The paper's variants as bars; None if there is only one. Fig. 4 and 7."""
    shown = [group for group in table_groups if methods.find(group.method).is_variant and not group.relative]
    if len(shown) < 2:
        return None
    shown.sort(key=lambda group: -ORDER.index(group.method))
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    colours = ["tab:orange" if group.method == "vectorfit" else "0.65" for group in shown]
    means, spreads = [group.mean() for group in shown], [group.spread for group in shown]
    axis.bar([group.label for group in shown], means, color=colours)
    with_spread = [index for index, group in enumerate(shown) if len(group.scores) > 1]
    if with_spread:
        centres, lengths = [means[index] for index in with_spread], [spreads[index] for index in with_spread]
        axis.errorbar(with_spread, centres, lengths, fmt="none", color="black", capsize=3)
    low = min(m - s for m, s in zip(means, spreads, strict=True))
    high = max(m + s for m, s in zip(means, spreads, strict=True))
    below = low - max(0.5, 0.3 * (high - low))
    bottom = max(0.0, below) if low >= 0 else below
    axis.set_ylim(bottom, high + 0.1 * (high - bottom))
    axis.set_ylabel(table_groups[0].results[0]["metric"])
    axis.set_title(title, fontsize=10)
    return figure


def _spectra(table_groups: Sequence[Group]) -> Figure | None:
    """The spectrum of VectorFit's change, and of full fine-tuning's if there is a run of it. Fig. 8 and 9."""
    ours = next((group for group in table_groups if group.method == "vectorfit"), None)
    if ours is None:
        return None
    file = ours.runs[0].vectors
    vectors, metadata = read_vectors(file)
    changes = {name.removesuffix(".sigma"): v.float() for name, v in vectors.items() if name.endswith(".sigma")}
    if not pattern_of(file, metadata).is_diagonal:
        return None
    full = next((group for group in table_groups if group.method == "full"), None)
    compared = None
    if full is not None:
        weights = Weights(full.runs[0].vectors)
        compared = of_full_fine_tuning(changes, weights, weights)
    return spectra(changes, compared)


def _figures(title: str, table_groups: Sequence[Group]) -> Iterable[tuple[str, Figure | None]]:
    yield "pareto", pareto(title, table_groups)
    yield "ablation", ablation(title, table_groups)
    for group in table_groups:
        if group.label in DRAWN:
            yield f"strength-{group.method}", heatmap(strengths(read_vectors(group.runs[0].vectors)[0]))
    yield "spectra", _spectra(table_groups)


def compare(folders: Sequence[str], output_dir: str) -> list[Path]:
    """Writes comparison.md, comparison.json and the figures of every task; returns the paths.

    Args:
        folders: run folders, or folders that contain some.
        output_dir: the folder to write to.

    Raises:
        VectorFitError: a folder has no finished run, or two runs are of the same method and seed.
    """
    tables, out = groups(find(list(folders))), Path(output_dir)
    out.mkdir(parents=True, exist_ok=True)
    text, numbers, written = ["# Comparison\n"], {}, []
    for title, table_groups in tables.items():
        recipe = table_groups[0].results[0]["recipe"]
        has_several_tables = sum(other.startswith(f"{recipe} ·") for other in tables) > 1
        folder = out / (re.sub(r"\W+", "-", title) if has_several_tables else recipe)
        shown = []
        for name, figure in _figures(title, table_groups):
            if figure is not None:
                save_figure(figure, folder / f"{name}.png")
                shown.append(f"![{name}]({folder.name}/{name}.png)")
                written.append(folder / f"{name}.png")
        text += [table(title, table_groups), "\n\n".join(shown) + "\n"]
        numbers[title] = [
            {"method": group.label, "mean": group.mean(), "spread": group.spread, "runs": group.results}
            for group in table_groups
        ]
    write_atomically(out / "comparison.md", "\n".join(text).encode())
    write_atomically(out / "comparison.json", (json.dumps(numbers, indent=1) + "\n").encode())
    return [out / "comparison.md", out / "comparison.json", *written]
