"""Figures and numbers of what a training changed: `python -m vf_training analyze RUN`.

Figures of the paper: training strength (3, 6), spectrum of the change (8, 9), shift of the singular values (10).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from torch import Tensor

from vectorfit.atomic import PathLike, write_atomically
from vectorfit.container import PREFIX
from vectorfit.errors import VectorFitError
from vectorfit.fingerprint import canonical_name
from vectorfit.svd import decompose, in_float64
from vectorfit.vectors_file import pattern_of, read_vectors

from .methods import holds_vectors, name_of_method
from .runs import RunFolder

LISTS = re.compile(
    r"layers?|h|blocks?|(down|up|(single_)?transformer)_blocks|(noise|context)_refiner|attentions|resnets"
)  # names of lists of blocks
MODELS = re.compile(r"unet|transformer|text_encoder(_\d+)?")  # a pipeline's models, as diffusers names them
POSITIONS = {"down_blocks": "down ", "up_blocks": "up ", "mid_block": "mid "}  # a UNet's parts, as figures name them
SYMBOLS = {"sigma": "σ", "bias": "b"}
LEADING = 64  # singular values whose shift is shown, as in the paper's Figure 10


def cell(name: str) -> tuple[str, str]:
    """A vector's cell in a heatmap: its row (the part of a block, and sigma or bias) and its column (the block).

    "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.sigma" is ("unet.attn1.to_q σ", "down 0.1").
    """
    *parts, kind = name.split(".")
    row: list[str] = []
    column: list[str] = []
    heading = ""
    while parts:
        part = parts.pop(0)
        if part in POSITIONS:
            heading = POSITIONS[part]
        if LISTS.fullmatch(part) and parts and parts[0].isdigit():
            index = parts.pop(0)
            column += [] if part == "transformer_blocks" and index == "0" else [index]
        elif part not in POSITIONS:
            row.append(part)
    return f"{'.'.join(row)} {SYMBOLS.get(kind, kind)}", heading + ".".join(column)


def strengths(vectors: Mapping[str, Tensor]) -> dict[str, float]:
    """S_v of each vector: the mean absolute distance from its start. Eq. 4."""
    return {name: float(in_float64(vector.detach()).abs().mean()) for name, vector in vectors.items()}


def _panels(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by the pipeline's model that has them. Names of other models are all in one panel, ""."""
    panels: dict[str, list[str]] = {}
    for name in names:
        first = name.split(".")[0]
        panels.setdefault(first if MODELS.fullmatch(first) else "", []).append(name)
    return panels


def _common(rows: Sequence[str]) -> int:
    """The number of leading characters, up to a dot, that all rows share."""
    first, last = min(rows), max(rows)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return first.rfind(".", 0, shared) + 1


def _natural(text: str) -> tuple[int, list[tuple[int, str]]]:
    """A key that sorts 2 before 10, and a UNet's blocks from input to output."""
    order = next((i for i, head in enumerate(("down", "mid", "up")) if text.startswith(head)), -1)
    return order, [(int(digits or 0), rest) for digits, rest in re.findall(r"(\d*)(\D*)", text)]


def heatmap(values: Mapping[str, float]) -> Figure:
    """A heatmap of one number per vector: a column per block, a row per part of a block and kind. Fig. 3 and 6."""
    panels = _panels(values)
    placed = {panel: {cell(name): values[name] for name in names} for panel, names in panels.items()}
    # The sigma of each part of a block is above its bias.
    rows = {
        panel: sorted({row for row, _ in cells}, key=lambda row: row.replace(" b", " τ"))
        for panel, cells in placed.items()
    }
    columns = {panel: sorted({column for _, column in cells}, key=_natural) for panel, cells in placed.items()}
    widths = [max(3, len(columns[panel])) for panel in panels]
    height = 1.4 + 0.22 * max(len(panel_rows) for panel_rows in rows.values())
    figure = Figure(figsize=(2.6 * len(panels) + 0.34 * sum(widths) + 1, height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    top = max(values.values(), default=0.0) or 1.0
    image = None
    for axis, (panel, cells) in zip(axes, placed.items(), strict=True):
        grid = [[cells.get((row, column), math.nan) for column in columns[panel]] for row in rows[panel]]
        image = axis.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
        cut = _common(rows[panel]) if len(rows[panel]) > 1 else 0
        axis.set_yticks(range(len(rows[panel])), [row[cut:] for row in rows[panel]], fontsize=8)
        axis.set_xticks(
            range(len(columns[panel])),
            [c or "·" for c in columns[panel]],
            fontsize=8,
            rotation=90 if panel == "unet" else 0,
        )
        axis.set_xlabel("block")
        axis.set_facecolor("0.93")  # cells without a vector
        axis.set_title(panel.replace("_", " ") or "Training strength", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="mean |change| of the vector", shrink=0.9, pad=0.01)
    if "" not in panels:
        figure.suptitle("Training strength", fontsize=12)
    return figure


def frozen_spans(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    """The first and last step of each freezing of every vector that was ever frozen, from a log's lines.

    The log of a long run has a line every few steps. Lines at the smallest distance count as consecutive.
    """
    spans: dict[str, list[tuple[int, int]]] = {}
    steps = [int(entry["step"]) for entry in entries]
    distance = min((after - before for before, after in pairwise(steps)), default=1)
    for step, entry in zip(steps, entries, strict=True):
        for name in entry.get("frozen") or ():
            of_vector = spans.setdefault(name, [])
            if of_vector and of_vector[-1][1] == step - distance:
                of_vector[-1] = (of_vector[-1][0], step)
            else:
                of_vector.append((step, step))
    return spans


def timeline(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """When each vector was frozen, from the log's lines: a line per vector that ever was."""
    spans = frozen_spans(entries)
    names = sorted(spans, key=lambda name: (spans[name][0][0], -sum(b - a for a, b in spans[name]), name))
    figure = Figure(figsize=(10, 1.4 + 0.2 * max(2, len(names))), layout="constrained")
    axis = figure.subplots()
    for line, name in enumerate(names):
        bars = [(first - 0.5, last - first + 1) for first, last in spans[name]]
        axis.broken_barh(bars, (line - 0.4, 0.8), color="tab:blue" if name.endswith("sigma") else "tab:orange")
    axis.set_yticks(range(len(names)), [label(name) for name in names], fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    last = max((int(entry["step"]) for entry in entries), default=1)
    axis.set_xlim(0, last)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("step")
    axis.set_title("Frozen vectors (σ blue, b orange)" if names else "No vector was ever frozen")
    return figure


def label(name: str) -> str:
    """A vector's name as figures show it, with the block first: "down 0.1 · unet.attn1.to_q σ"."""
    row, column = cell(name)
    return f"{column} · {row}" if column else row


def rank_numbers(singular_values: Tensor) -> dict[str, float]:
    """The norm and three ranks of a change.

    "rank" counts the singular values above float32's noise. "stable_rank" is ||.||_F^2 over the square of the largest.
    "effective_rank" is the exponential of the entropy of their shares (Roy and Vetterli 2007).
    """
    values = in_float64(singular_values).abs().sort(descending=True).values
    if not len(values) or values[0] == 0:
        return {"norm": 0.0, "rank": 0, "stable_rank": 0.0, "effective_rank": 0.0}
    shares = values / values.sum()
    entropy = -(shares[shares > 0] * shares[shares > 0].log()).sum()
    return {
        "norm": float(values.norm()),
        "rank": int((values > values[0] * len(values) * torch.finfo(torch.float32).eps).sum()),
        "stable_rank": float(values.square().sum() / values[0].square()),
        "effective_rank": float(entropy.exp()),
    }


def _small_multiples(count: int) -> tuple[Figure, list[Any]]:
    columns = min(4, max(1, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _by_part(paths: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """The block and path of each layer, by the part of a block that it is, in the blocks' order."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        row, column = cell(f"{path}.sigma")
        parts.setdefault(row.removesuffix(" σ"), []).append((column, path))
    return {part: sorted(parts[part], key=lambda item: _natural(item[0])) for part in sorted(parts)}


def spectra(changes: Mapping[str, Tensor], full: Mapping[str, Tensor] | None = None) -> Figure:
    """The singular values of dW, largest first: a panel per part of a block, a line per block. Fig. 8 and 9.

    `changes` and `full` have them by the layer's path. `full`, of full fine-tuning, is dashed.
    """
    full, parts = full or {}, _by_part(changes)
    figure, axes = _small_multiples(len(parts))
    cut = _common(list(parts)) if len(parts) > 1 else 0
    colours = matplotlib.colormaps["viridis"]
    for axis, (part, layers) in zip(axes, parts.items(), strict=True):
        for index, (_, path) in enumerate(layers):
            colour = colours(index / max(1, len(layers) - 1) * 0.9)
            for values, style in ((changes[path], "-"), (full.get(path), "--")):
                if values is not None:
                    axis.plot(values.abs().sort(descending=True).values.numpy(), style, color=colour, lw=1)
        axis.set_yscale("log")
        axis.set_title(part[cut:], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    note = ", full fine-tuning dashed" if full else ""
    figure.suptitle(f"Singular values of the change (a line per block, the first dark{note})", fontsize=11)
    return figure


def shifts(changes: Mapping[str, Tensor]) -> Figure:
    """The changes of the leading singular values: a panel per part of a block, a row per block. Fig. 10."""
    parts = _by_part(changes)
    figure, axes = _small_multiples(len(parts))
    cut = _common(list(parts)) if len(parts) > 1 else 0
    top = max((float(values[:LEADING].abs().max()) for values in changes.values()), default=0.0) or 1.0
    image = None
    for axis, (part, layers) in zip(axes, parts.items(), strict=True):
        grid = torch.full((len(layers), LEADING), math.nan)
        for line, (_, path) in enumerate(layers):
            values = changes[path][:LEADING]
            grid[line, : len(values)] = values
        image = axis.imshow(grid.numpy(), aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axis.set_yticks(range(len(layers)), [column or "·" for column, _ in layers], fontsize=6)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_facecolor("0.93")
        axis.set_title(part[cut:], fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=axes, label="change of the singular value", shrink=0.8, pad=0.01)
    figure.suptitle(f"Shift of the {LEADING} leading singular values (index along, block down)", fontsize=11)
    return figure


def save_figure(figure: Figure, path: PathLike) -> None:
    """Writes a PNG atomically. Equal figures give equal bytes."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorFitError(
            f"{Path(path).parent}: cannot be created ({error.strerror}); name another folder"
        ) from error
    write_atomically(path, data.getvalue())


def write_training(vectors: Mapping[str, Tensor], entries: Sequence[Mapping[str, Any]], folder: PathLike) -> list[Path]:
    """Writes strength.png, and timeline.png where anything was logged; returns the paths."""
    written = [Path(folder) / "strength.png"]
    save_figure(heatmap(strengths(vectors)), written[0])
    if entries:
        written.append(Path(folder) / "timeline.png")
        save_figure(timeline(entries), written[1])
    return written


class Weights:
    """Weights in a safetensors file or a folder of such files, read one at a time by the layer's path."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        result = RunFolder(self.path).vectors  # in a run folder: its checkpoints have further .safetensors files
        files = sorted(self.path.rglob("*.safetensors")) if self.path.is_dir() else [self.path]
        files = [result] if result.exists() else files
        self._files: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    self._files |= dict.fromkeys(opened.keys(), file)
            except (OSError, ValueError, RuntimeError) as error:
                raise VectorFitError(f"{file}: cannot be read as safetensors ({error})") from error
        if not self._files:
            raise VectorFitError(f"{self.path}: holds no .safetensors file with weights")
        self.is_difference = self._is_difference()

    def _is_difference(self) -> bool:
        """Whether the file has changes of weights, as full fine-tuning writes them."""
        with safe_open(next(iter(self._files.values())), "pt") as opened:
            metadata = opened.metadata() or {}
        if PREFIX + "format_version" not in metadata:
            return False
        name = name_of_method(metadata)
        if name != "full":
            raise VectorFitError(f"{self.path}: from a {name} training, expected weights or full fine-tuning")
        return True

    def change_from(self, base: "Weights", path: str) -> Tensor:
        """A layer's weight minus the base's [out, in]. Raises VectorFitError if their shapes differ."""
        weight = self.matrix(path)
        if self.is_difference:
            return weight
        before = base.matrix(path)
        if weight.shape != before.shape:
            raise VectorFitError(f"{path}: {tuple(weight.shape)} in {self.path}, {tuple(before.shape)} in {base.path}")
        return weight - before

    def matrix(self, path: str) -> Tensor:
        """A layer's weight as a matrix [out, in]. One of its path and the file's name may have more parts in front."""
        wanted = f"{canonical_name(path)}.weight"
        names = {canonical_name(name): name for name in self._files}
        matches = [name for name in names if name.endswith(f".{wanted}") or wanted.endswith(f".{name}")]
        if wanted in names:
            matches = [wanted]
        if len(matches) != 1:
            raise VectorFitError(f"{self.path}: {len(matches)} weights are called {wanted}, expected one")
        with safe_open(self._files[names[matches[0]]], "pt") as opened:
            weight: Tensor = opened.get_tensor(names[matches[0]])
        return weight.float().flatten(1)


def of_full_fine_tuning(paths: Iterable[str], base: Weights, full: Weights) -> dict[str, Tensor]:
    """The singular values of W - W0, by layer."""
    return {path: torch.linalg.svdvals(in_float64(full.change_from(base, path))).float() for path in paths}


def shifts_of_full_fine_tuning(paths: Iterable[str], base: Weights, full: Weights) -> dict[str, Tensor]:
    """diag(U^T (W - W0) V) with the factors of W0, by layer: how far full fine-tuning moved each singular value."""
    moved = {}
    for path in paths:
        U, _, Vh = decompose(base.matrix(path))
        moved[path] = ((U.T @ full.change_from(base, path)) * Vh).sum(1)
    return moved


def analyze(
    run: PathLike, folder: PathLike | None = None, base: PathLike | None = None, full: PathLike | None = None
) -> list[Path]:
    """Writes all figures of a run folder or a subject file, and their numbers to analysis.json. Returns the paths.

    Args:
        run: a run folder, or a subject file.
        folder: the folder to write to; by default `analysis/` in the run folder or beside the file.
        base, full: the base's weights and those of full fine-tuning, as safetensors, to compare with.

    Raises:
        VectorFitError: `run` has no subject file, or only one of `base` and `full` is given.
    """
    if (base is None) != (full is None):
        raise VectorFitError("--full and --base: both are needed to compare with full fine-tuning")
    run = Path(run)
    file = RunFolder(run).vectors if run.is_dir() else run
    vectors, metadata = read_vectors(file)
    if not holds_vectors(metadata):
        raise VectorFitError(f"{file}: from a {name_of_method(metadata)} training, which has no vectors to show")
    entries = RunFolder(file.parent).read_log()
    folder = Path(folder) if folder else RunFolder(file.parent).analysis
    written = write_training(vectors, entries, folder)
    changes = {name.removesuffix(".sigma"): v.float() for name, v in vectors.items() if name.endswith(".sigma")}
    numbers: dict[str, Any] = {
        "strength": strengths(vectors),
        "frozen": frozen_spans(entries),
        "steps_frozen": {n: sum(b - a + 1 for a, b in spans) for n, spans in frozen_spans(entries).items()},
    }
    plain = pattern_of(file, metadata).is_diagonal
    if changes and plain:  # the entries of other patterns are not singular values
        compared = None
        if base is not None and full is not None:
            weights = Weights(base), Weights(full)
            compared = of_full_fine_tuning(changes, *weights)
            numbers["full_fine_tuning"] = {path: rank_numbers(values) for path, values in compared.items()}
            save_figure(shifts(shifts_of_full_fine_tuning(changes, *weights)), folder / "shifts_full.png")
            written.append(folder / "shifts_full.png")
        numbers["change"] = {path: rank_numbers(values) for path, values in changes.items()}
        for name, figure in (("spectra", spectra(changes, compared)), ("shifts", shifts(changes))):
            save_figure(figure, folder / f"{name}.png")
            written.append(folder / f"{name}.png")
    write_atomically(folder / "analysis.json", (json.dumps(numbers, indent=1) + "\n").encode())
    return [*written, folder / "analysis.json"]
