"""The picture of a selection: prompt against likeness with a picture of every candidate, and rows of its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from vf_dreambooth.images import grid, square
from vf_dreambooth.photos import open_photo

from .balance import Scores

THUMBNAIL, CELL = 30, 128  # pixels: in the chart, and in the rows of pictures
PICKED, OTHER = "tab:orange", "0.6"
COLOURS = {"likeness": "tab:blue", "prompt": "tab:green", "cls": "tab:purple"}


@dataclass(frozen=True)
class Shown:
    """A candidate as it is shown."""

    name: str
    step: int
    scores: Scores
    pictures: Sequence[Path]
    picked: bool


def _chart(axis: Axes, shown: Sequence[Shown], labels: Sequence[str]) -> None:
    """Likeness over prompt, a numbered picture for each candidate; a line joins the strengths of a checkpoint."""
    places = [(one.scores.prompt or 0.0, one.scores.likeness or 0.0) for one in shown]
    for step in dict.fromkeys(one.step for one in shown):
        line = [place for place, one in zip(places, shown, strict=True) if one.step == step]
        axis.plot(*zip(*line, strict=True), color=OTHER, lw=1, zorder=1)
    for number, (place, one) in enumerate(zip(places, shown, strict=True), start=1):
        thumbnail = OffsetImage(square(open_photo(one.pictures[0]), THUMBNAIL))
        frame = {"edgecolor": PICKED if one.picked else OTHER, "linewidth": 3 if one.picked else 1}
        layer = 100 if one.picked else 2 + number
        axis.add_artist(AnnotationBbox(thumbnail, place, pad=0.1, bboxprops=frame, zorder=layer))
        badge = {"boxstyle": "round,pad=0.15", "facecolor": frame["edgecolor"], "edgecolor": "none"}
        corner = {
            "xytext": (-THUMBNAIL / 2, THUMBNAIL / 2),
            "textcoords": "offset pixels",
            "ha": "center",
            "va": "center",
        }
        axis.annotate(str(number), place, fontsize=7, bbox=badge, zorder=layer + 0.5, **corner)
    axis.set_xlabel(f"prompt, by {labels[2]}: 0 as the photos, 1 as the base")
    axis.set_ylabel(f"likeness, by {labels[0]} and {labels[1]}:\n0 as the base, 1 as the photos")
    axis.margins(0.15)
    axis.grid(alpha=0.3)


def _bars(axis: Axes, shown: Sequence[Shown]) -> None:
    """The balance of every candidate, and the three shares that make it."""
    places = range(len(shown))
    axis.barh(places, [one.scores.balance for one in shown], color=[PICKED if one.picked else "0.8" for one in shown])
    for part, marker in (("likeness", "o"), ("prompt", "s"), ("cls", "^")):
        values = [getattr(one.scores, part) for one in shown]
        told = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
        if told:
            name = "class" if part == "cls" else part
            axis.scatter(*zip(*told, strict=True), marker=marker, s=18, zorder=3, label=name, color=COLOURS[part])
    axis.set_yticks(list(places), [f"{one.name}   {number}" for number, one in enumerate(shown, start=1)], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("balance (harmonic mean of the three)", fontsize=9)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.09), ncols=3, frameon=False)


def picture(
    shown: Sequence[Shown], photos: Sequence[Path], base: Sequence[Path], prompts: Sequence[str], labels: Sequence[str]
) -> Image.Image:
    """The chart, the balances, and below them a row of pictures for the photos, the base and every candidate.

    `prompts` are the columns' titles, `labels` the names of the three scores.
    """
    rows = [list(photos[: len(prompts)]), list(base), *(list(one.pictures) for one in shown)]
    titles = ["the photos", "the base, asked for the class"]
    for number, one in enumerate(shown, start=1):
        s = one.scores
        values = zip((*labels, "drift", "balance"), (s.dino, s.clip_i, s.clip_t, s.drift, s.balance), strict=True)
        told = ", ".join(f"{name} {value:.2f}" for name, value in values)
        titles.append(f"{number}: {one.name}{', picked' if one.picked else ''}   ({told})")
    pictures = [[open_photo(path) for path in row] for row in rows]
    sheet = grid(pictures, row_titles=titles, column_titles=prompts, cell=CELL)
    width = max(sheet.width, 900)
    figure = Figure(figsize=(width / 100, 5), dpi=100, layout="constrained")
    chart, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    _chart(chart, shown, labels)
    _bars(bars, shown)
    data = BytesIO()
    figure.savefig(data, format="png")
    top = Image.open(data).convert("RGB")
    whole = Image.new("RGB", (width, top.height + sheet.height), "white")
    whole.paste(top, (0, 0))
    whole.paste(sheet, (0, top.height))
    return whole
