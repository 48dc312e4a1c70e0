"""Details of a subject: file, settings, training, scores; and its exports for other tools."""

import json
import re
import shutil
import threading
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.export import Kind, export
from vf_training import methods
from vf_training.analysis import heatmap, strengths, timeline
from vf_training.runs import RunFolder

from .pace import duration
from .subjects import Library, Subject

METADATA_SHOWN = ("num_vectors", "config", "base_sha256", "vectors_sha256", "format_version", "versions")
SCORES = ("evaluation/scores.json", "scores.json")  # where a run folder may hold the evaluator's results
KINDS = {"LoRA (rank 32, diffusers)": Kind("lora"), "LoRA (rank 32, kohya)": Kind("lora", naming="kohya")}
PIPELINE = "merged pipeline (zip)"
EXPORTS = ("subject file", *KINDS, PIPELINE)
SMOOTHING = 20  # steps that the loss curve averages over
INK, EMPTY = "#123457", "#ededed"  # stand-ins for the page's colours; the second is the heatmap's empty cell
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
SVG = {"svg.fonttype": "none", "axes.facecolor": "none", "legend.facecolor": "none"}
_DRAWING = threading.Lock()  # matplotlib's settings are those of the whole process


def summary(subject: Subject, photos: int) -> list[str]:
    """What a person wants to know first: base, size, photos, how long it was trained."""
    lines = [f"on {subject.base}", f"{subject.file.stat().st_size / 1000:,.0f} kB"]
    lines += [f"{photos} photos"] if photos else []
    steps = subject.settings().get("max_train_steps")
    lines += [f"{steps} steps"] if steps else []
    recorded = RunFolder(subject.path).read_config() if subject.path.is_dir() else {}
    return [*lines, duration(recorded["seconds"])] if "seconds" in recorded else lines


def facts(subject: Subject) -> list[list[str]]:
    """Table rows (name, value): what the file and the run folder record."""
    metadata = vf.read_metadata(subject.file)
    rows = [["trigger phrase", subject.trigger], ["base model", subject.base], ["method", subject.method]]
    rows += [["size", f"{subject.file.stat().st_size:,} bytes"]]
    rows += [
        [name.replace("_", " "), metadata[f"vectorfit.{name}"]]
        for name in METADATA_SHOWN
        if f"vectorfit.{name}" in metadata
    ]
    if subject.path.is_dir():
        recorded = RunFolder(subject.path).read_config()
        if "seconds" in recorded:
            rows += [["training took", f"{recorded['seconds']:.0f} s"]]
        if "peak_memory" in recorded:
            rows += [["peak memory", f"{recorded['peak_memory'] / 2**30:.1f} GiB"]]
    return rows


def settings(subject: Subject) -> list[list[str]]:
    """Table rows (name, value): the training's settings."""
    return [[name, "–" if value is None else str(value)] for name, value in sorted(subject.settings().items())]


def scores(subject: Subject) -> list[list[str]]:
    """Table rows (score, mean, interval, the photos' own, the base's, protocol) from the evaluator's results."""
    files = [subject.path / name for name in SCORES] if subject.path.is_dir() else []
    return [row for file in files for row in _score_rows(file)]


def _score_rows(file: Path) -> list[list[str]]:
    """The rows of one result; none if the file is missing or is not a result of the evaluator."""
    rows = []
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        protocol = result["protocol"]["name"]
        for kind, label in result["labels"].items():
            score = result["overall"].get(kind)
            between = [result["overall"].get(row, {}).get(kind) for row in ("photos", "base")]
            if score:
                interval = f"{score['low']:.3f} to {score['high']:.3f}"
                cells = ["–" if value is None else f"{value:.3f}" for value in between]
                rows.append([label, f"{score['mean']:.3f}", interval, *cells, protocol])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return rows


def loss_curve(subject: Subject) -> Figure | None:
    """The loss of every step and its moving mean; None if there is no log."""
    entries = RunFolder(subject.path).read_log() if subject.path.is_dir() else []
    entries = [entry for entry in entries if isinstance(entry.get("loss"), float)]
    if not entries:
        return None
    steps, losses = [entry["step"] for entry in entries], [entry["loss"] for entry in entries]
    means = [
        sum(losses[max(0, i - SMOOTHING + 1) : i + 1]) / len(losses[max(0, i - SMOOTHING + 1) : i + 1])
        for i in range(len(losses))
    ]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, losses, color="0.6", lw=0.8, label="each step")
    axis.plot(steps, means, color="#1c9c7a", lw=1.6, label=f"mean of {SMOOTHING} steps")
    axis.set_title("Loss")
    axis.set_xlabel("step")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def figures(subject: Subject) -> dict[str, str]:
    """Loss curve, training strength and frozen vectors as SVG, if the subject has the data for them."""
    run = RunFolder(subject.path).read_log() if subject.path.is_dir() else []
    with _DRAWING, matplotlib.rc_context({**SVG, **dict.fromkeys(INKED, INK)}):
        drawn = {"Loss": loss_curve(subject)}
        if methods.holds_vectors(vf.read_metadata(subject.file)):
            vectors, _ = read_vectors(subject.file)
            drawn["Training strength"] = heatmap(strengths(vectors))
            drawn["Frozen vectors"] = timeline(run) if run else None
        return {title: _svg(figure) for title, figure in drawn.items() if figure is not None}


def _svg(figure: Figure) -> str:
    """A figure in the page's own colours: its text, lines and empty cells follow light and dark."""
    data = StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = data.getvalue().replace(INK, "currentColor").replace(EMPTY, "var(--border-color-primary)")
    return re.sub(r' (width|height)="[\d.]+pt"', "", text[text.index("<svg") :], count=2)


def write_export(library: Library, subject: Subject, kind: str, folder: Path) -> Path:
    """The subject as one file to download: one of `EXPORTS`.

    Raises:
        VectorFitError: the kind is unknown, the subject's method has no export, or its base is missing.
    """
    name = subject.name.rpartition("/")[2]
    if kind == EXPORTS[0]:
        return Path(shutil.copyfile(subject.file, folder / f"{name}.safetensors"))
    if kind not in EXPORTS:
        raise VectorFitError(f"export {kind!r}: expected {', '.join(EXPORTS)}")
    base = library.base_of(subject)
    if kind == PIPELINE:
        export(subject.path, base, Kind("pipeline"), folder / name)
        archive = Path(shutil.make_archive(str(folder / name), "zip", folder / name))
        shutil.rmtree(folder / name)  # it may hold gigabytes
        return archive
    out = folder / f"{name}-{KINDS[kind].file_name}"
    export(subject.path, base, KINDS[kind], out)
    return out
