"""What there is to know of a subject: its file, settings, training and scores; and the subject for other tools."""

import json
import shutil
from pathlib import Path

from matplotlib.figure import Figure

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.export import Kind, export
from vf_training import methods
from vf_training.analysis import heatmap, save_figure, strengths, timeline
from vf_training.runs import RunFolder

from .subjects import Library, Subject

SHOWN = ("num_vectors", "config", "base_sha256", "vectors_sha256", "format_version", "versions")
SCORES = ("evaluation/scores.json", "scores.json")  # where the evaluator's results lie in a run folder
SCORES_SCHEMA = "vectorfit-eval/1"
KINDS = {"LoRA (rank 32, diffusers)": Kind("lora"), "LoRA (rank 32, kohya)": Kind("lora", naming="kohya")}
PIPELINE = "merged pipeline (zip)"
EXPORTS = ("subject file", *KINDS, PIPELINE)
SMOOTH = 20  # steps that the loss curve's line averages over


def facts(subject: Subject) -> list[list[str]]:
    """Rows of a table: what the file tells of itself."""
    metadata = vf.read_metadata(subject.file)
    rows = [["trigger phrase", subject.trigger], ["base model", subject.base], ["method", subject.method]]
    rows += [["size", f"{subject.file.stat().st_size:,} bytes"]]
    rows += [
        [name.replace("_", " "), metadata[f"vectorfit.{name}"]] for name in SHOWN if f"vectorfit.{name}" in metadata
    ]
    if subject.path.is_dir():
        recorded = RunFolder(subject.path).read_config()
        if "seconds" in recorded:
            rows += [["training took", f"{recorded['seconds']:.0f} s"]]
        if "peak_memory" in recorded:
            rows += [["peak memory", f"{recorded['peak_memory'] / 2**30:.1f} GiB"]]
    return rows


def settings(subject: Subject) -> list[list[str]]:
    """Rows of a table: the training's settings."""
    return [[name, "–" if value is None else str(value)] for name, value in sorted(subject.settings().items())]


def scores(subject: Subject) -> list[list[str]]:
    """Rows of a table: mean, 95 % interval and protocol, where the subject has been evaluated."""
    places = [subject.path / place for place in SCORES] if subject.path.is_dir() else []
    rows = []
    for place in places:
        try:
            result = json.loads(place.read_text(encoding="utf-8"))
            if result["schema"] != SCORES_SCHEMA:
                continue
            for kind, label in result["labels"].items():
                told = result["overall"].get(kind)
                if told:
                    spread = f"{told['low']:.3f} to {told['high']:.3f}"
                    rows.append([label, f"{told['mean']:.3f}", spread, result["protocol"]["name"]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return rows


def loss_curve(subject: Subject) -> Figure | None:
    """The loss of every step and its moving mean; None where no log is."""
    entries = RunFolder(subject.path).read_log() if subject.path.is_dir() else []
    entries = [entry for entry in entries if isinstance(entry.get("loss"), float)]
    if not entries:
        return None
    steps, losses = [entry["step"] for entry in entries], [entry["loss"] for entry in entries]
    means = [
        sum(losses[max(0, i - SMOOTH + 1) : i + 1]) / len(losses[max(0, i - SMOOTH + 1) : i + 1])
        for i in range(len(losses))
    ]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, losses, color="0.75", lw=0.8, label="each step")
    axis.plot(steps, means, color="tab:orange", lw=1.6, label=f"mean of {SMOOTH} steps")
    axis.set_title("Loss")
    axis.set_xlabel("step")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def write_figures(subject: Subject, folder: Path) -> dict[str, Path]:
    """Loss curve, training-strength heatmap and AVF timeline as PNG files, as far as the subject tells of them."""
    figures = {"Loss": loss_curve(subject)}
    if methods.holds_vectors(vf.read_metadata(subject.file)):
        vectors, _ = read_vectors(subject.file)
        figures["Training strength"] = heatmap(strengths(vectors))
        entries = RunFolder(subject.path).read_log() if subject.path.is_dir() else []
        figures["Frozen vectors"] = timeline(entries) if entries else None
    found = {}
    for title, figure in figures.items():
        if figure is not None:
            found[title] = folder / f"{title.lower().replace(' ', '-')}.png"
            save_figure(figure, found[title])
    return found


def write_export(library: Library, subject: Subject, what: str, folder: Path) -> Path:
    """The subject as one file to download: one of `EXPORTS`.

    Raises:
        VectorFitError: an unknown kind, a baseline (which exports to nothing), or a base that is not here.
    """
    name = subject.name.rpartition("/")[2]
    if what == EXPORTS[0]:
        return Path(shutil.copyfile(subject.file, folder / f"{name}.safetensors"))
    if what not in EXPORTS:
        raise VectorFitError(f"export {what!r}: expected {', '.join(EXPORTS)}")
    base = library.base_of(subject)
    if what == PIPELINE:
        export(subject.path, base, Kind("pipeline"), folder / name)
        archive = Path(shutil.make_archive(str(folder / name), "zip", folder / name))
        shutil.rmtree(folder / name)  # gigabytes, of Stable Diffusion
        return archive
    out = folder / f"{name}-{KINDS[what].file_name}"
    export(subject.path, base, KINDS[what], out)
    return out
