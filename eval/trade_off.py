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

THUMBNAIL, CELL = 40, 96  # pixels: in the chart, and in the rows of pictures
PICKED, OTHER = "tab:orange", "0.6"


@dataclass(frozen=True)
class Shown:
    """A candidate as it is shown."""

    name: str
    step: int
    scores: Scores
    pictures: Sequence[Path]
    picked: bool


def _chart(axis: Axes, shown: Sequence[Shown], labels: Sequence[str]) -> None:
    """Likeness over prompt; a line joins the strengths of a checkpoint, and the size of a frame tells nothing."""
    for step in dict.fromkeys(one.step for one in shown):
        line = [one.scores for one in shown if one.step == step]
        axis.plot([s.prompt or 0 for s in line], [s.likeness or 0 for s in line], color=OTHER, lw=1, zorder=1)
    for one in sorted(shown, key=lambda one: one.picked):
        place = (one.scores.prompt or 0, one.scores.likeness or 0)
        thumbnail = OffsetImage(square(open_photo(one.pictures[0]), THUMBNAIL))
        frame = {"edgecolor": PICKED if one.picked else OTHER, "linewidth": 3 if one.picked else 1}
        axis.add_artist(AnnotationBbox(thumbnail, place, pad=0.1, bboxprops=frame, zorder=3 if one.picked else 2))
        colour = PICKED if one.picked else "black"
        axis.annotate(
            one.name.replace("strength ", "x "),
            place,
            (0, -32),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=colour,
        )
    axis.set_xlabel(f"prompt, by {labels[2]}: 0 as the photos, 1 as the base")
    axis.set_ylabel(f"likeness, by {labels[0]} and {labels[1]}:\n0 as the base, 1 as the photos")
    axis.margins(0.18)
    axis.grid(alpha=0.3)


def _bars(axis: Axes, shown: Sequence[Shown]) -> None:
    """The balance of every candidate, and the three shares that make it."""
    places = range(len(shown))
    axis.barh(places, [one.scores.balance for one in shown], color=[PICKED if one.picked else "0.8" for one in shown])
    for part, marker in (("likeness", "o"), ("prompt", "s"), ("cls", "^")):
        values = [getattr(one.scores, part) for one in shown]
        told = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
        if told:
            axis.scatter(
                *zip(*told, strict=True), marker=marker, s=18, zorder=3, label="class" if part == "cls" else part
            )
    axis.set_yticks(list(places), [one.name for one in shown], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.02)
    axis.set_xlabel("balance: the harmonic mean of the three")
    axis.legend(fontsize=7, loc="lower left")


def picture(
    shown: Sequence[Shown], photos: Sequence[Path], base: Sequence[Path], prompts: Sequence[str], labels: Sequence[str]
) -> Image.Image:
    """The chart, the balances, and below them a row of pictures for the photos, the base and every candidate."""
    columns = max(len(prompts), 1)
    rows = [list(photos[:columns]), list(base), *(list(one.pictures) for one in shown)]
    titles = ["the photos", "the base, asked for the class"]
    for one in shown:
        s = one.scores
        numbers = (
            f"{labels[0]} {s.dino:.2f}, {labels[1]} {s.clip_i:.2f}, {labels[2]} {s.clip_t:.2f}, drift {s.drift:.2f}"
        )
        titles.append(f"{one.name}{' (picked)' if one.picked else ''}: balance {s.balance:.2f}; {numbers}")
    sheet = grid(
        [[open_photo(path) for path in row] for row in rows], row_titles=titles, column_titles=prompts, cell=CELL
    )
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
