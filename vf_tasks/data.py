"""Reads the rows of a data set: local tables, JSON, folders of images, IDX files, zips of these, or the hub."""

import csv
import gzip
import io
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from vectorfit import VectorFitError

from .recipe import Recipe

TABLES = (".tsv", ".csv", ".jsonl", ".json", ".txt")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
CUT_SHORT = 1e-3  # the share of a table's rows that may lack columns
HELD_OUT = 0.1  # the share of rows to score on if there is only one split
IDX_SPLITS = {"t10k": "test"}


@dataclass(frozen=True)
class Split:
    """Rows. `where` names their source in messages; `order` selects rows by index, None means all of them in order."""

    rows: Sequence[Mapping[str, Any]]
    where: str
    order: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.order is None else len(self.order)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index if self.order is None else self.order[index]]

    def some(self, first: int, last: int) -> "Split":
        """The rows `first` to `last` - 1 of a shuffle that is always the same."""
        shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed(0)).tolist()[first:last]
        order = range(len(self.rows)) if self.order is None else self.order
        return replace(self, order=tuple(order[index] for index in shuffled))

    def name(self, wanted: str) -> str:
        """The first column of NAME|OTHER that exists. Raises VectorFitError if there is none."""
        columns = self[0].keys()
        name = next((name for name in wanted.split("|") if name in columns), None)
        if name is None:
            raise VectorFitError(
                f"{self.where}: no column {wanted.replace('|', ' or ')!r}, it has {', '.join(map(str, columns))}; "
                "name them with --input_columns and --target_column"
            )
        return name

    def column(self, wanted: str) -> list[Any]:
        """A column's values. Raises VectorFitError if there is no such column, or a row has no value in it."""
        name = self.name(wanted)
        if (
            hasattr(self.rows, "column_names") and self.order is None
        ):  # from the hub: the images of the rows are not opened
            values: list[Any] = list(cast(Any, self.rows)[name])
        else:
            values = [row.get(name) for row in self]
        empty = next((index for index, value in enumerate(values, 1) if value is None), None)
        if empty is not None:
            raise VectorFitError(f"{self.where}: row {empty} has no {name}")
        return values


@dataclass(frozen=True)
class Data:
    """The rows to train on, and the splits to score on. The first split's score is the run's."""

    train: Split
    tests: dict[str, Split]

    def limited(self, max_train_rows: int | None, holdout: int | None) -> "Data":
        """The data with `max_train_rows` rows to train on, and `holdout` other training rows to score on instead.

        Raises:
            VectorFitError: there are not enough rows.
        """
        held = holdout or 0
        count = len(self.train) - held if max_train_rows is None else max_train_rows
        for name, number in (("max_train_rows", max_train_rows), ("holdout", holdout)):
            if number is not None and number < 1:
                raise VectorFitError(f"{name}: got {number}, expected at least 1")
        if count < 1 or held + count > len(self.train):
            raise VectorFitError(
                f"{self.train.where}: has {len(self.train)} rows, expected at least {max(1, count)} to train on and "
                f"{held} to hold out"
            )
        if max_train_rows is None and holdout is None:
            return self
        tests = {"holdout": self.train.some(0, held)} if held else self.tests
        return Data(self.train.some(held, held + count), tests)


def read(recipe: Recipe, data: str | None) -> Data:
    """The recipe's rows from the file or folder `data`, or from the hub if it is None.

    Raises:
        VectorFitError: the data is missing, damaged or of an unknown form, or a split is empty.
    """
    rows = _hub(recipe, recipe.hub, recipe.hub_config) if data is None else _local(recipe, data)
    for split in (rows.train, *rows.tests.values()):
        if not len(split):
            raise VectorFitError(f"{split.where}: has no rows")
    return rows


def _hub(recipe: Recipe, name: str, config: str) -> Data:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # network, hub and mirrors raise many kinds
        raise VectorFitError(
            f"the data set {name!r} cannot be loaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); name a local copy with --data, or try --tiny"
        ) from error
    lacking = [split for split in (recipe.train_split, *recipe.test_splits) if split not in loaded]
    if lacking == list(recipe.test_splits):
        return _held_out(Split(cast(Any, loaded[recipe.train_split]), f"{name}, {recipe.train_split}"))
    if lacking:
        raise VectorFitError(f"{name}: no split {lacking[0]!r}, it has {', '.join(loaded)}; name others with flags")
    splits = {split: Split(cast(Any, loaded[split]), f"{name}, {split}") for split in loaded}
    return Data(splits[recipe.train_split], {split: splits[split] for split in recipe.test_splits})


def _local(recipe: Recipe, data: str) -> Data:
    path = Path(data)
    if not path.exists():
        if data.count("/") != 1 or data.startswith((".", "/", "~")):
            raise VectorFitError(f"{data}: no such file or folder, and not a hub name; name the data set with --data")
        try:
            return _hub(recipe, data, recipe.hub_config)
        except VectorFitError as error:
            raise VectorFitError(f"{data}: no such folder; as a name on the hub: {error}") from error
    root = _opened(path)
    splits = _idx(root) if isinstance(root, Path) and root.is_dir() else {}
    if recipe.kind == "image_classification":
        splits = splits or _pictures(root)
    splits = splits or _tables(root, recipe)
    if not splits:
        raise VectorFitError(
            f"{data}: holds nothing known, expected {', '.join(TABLES[:4])}, SPLIT/CLASS/image, or IDX files"
        )
    train = _named(splits, recipe.train_split, ("train",))
    tests = {split: _named(splits, split, _other_names(split)) for split in recipe.test_splits}
    existing = {name: split for name, split in tests.items() if split is not None}
    if train is not None and len(existing) == len(tests):
        return Data(train, existing)
    if len(splits) == 1:
        return _held_out(next(iter(splits.values())))
    lacking = recipe.train_split if train is None else next(split for split in tests if tests[split] is None)
    raise VectorFitError(f"{data}: no split {lacking!r}, it has {', '.join(splits)}; name them with flags")


def _opened(path: Path) -> Any:
    """The folder with the data, which may be inside a zip; for a single file, the file."""
    if path.is_file() and path.suffix != ".zip":
        return path
    try:
        root: Any = zipfile.Path(path) if path.is_file() else path
    except (zipfile.BadZipFile, OSError) as error:
        raise VectorFitError(f"{path}: cannot be read ({error}); fetch it again") from error
    while True:  # many archives have one folder at the top
        inner = [entry for entry in root.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
        if len(inner) == 1 and isinstance(inner[0], Path) and inner[0].suffix == ".zip":
            return _opened(inner[0])
        if len(inner) != 1 or not inner[0].is_dir() or _holds_pictures(inner[0]):
            return root
        root = inner[0]


def _holds_pictures(folder: Any) -> bool:
    return any(Path(entry.name).suffix.lower() in PICTURES for entry in folder.iterdir())


def _other_names(split: str) -> tuple[str, ...]:
    """Other names of a split's files, the likeliest first."""
    return (*(split.replace("validation", name) for name in ("dev", "val", "valid")), "test")


def _named(splits: Mapping[str, Split], wanted: str, others: Sequence[str]) -> Split | None:
    """The split called `wanted` or one of `others`, or with such a name at one end: train-v1.1, msr_paraphrase_train.

    Raises:
        VectorFitError: several names fit.
    """
    exact = next((splits[name] for name in (wanted, *others) if name in splits), None)
    if exact is not None:
        return exact
    for name in (wanted, *others):
        near = [n for n in splits if n.startswith((f"{name}-", f"{name}.")) or n.endswith(f"_{name}")]
        if len(near) > 1:
            raise VectorFitError(f"{splits[near[0]].where}: {' and '.join(near)} could all be {wanted!r}; leave one")
        if near:
            return splits[near[0]]
    return None


def _held_out(split: Split) -> Data:
    """The data of a single split: a tenth is for scoring."""
    count = math.ceil(HELD_OUT * len(split))
    test = replace(split.some(0, count), where=f"{split.where}, a tenth held out")
    return Data(split.some(count, len(split)), {"held_out": test})


def _tables(root: Any, recipe: Recipe) -> dict[str, Split]:
    files = [root] if root.is_file() else [entry for entry in root.iterdir() if entry.is_file()]
    splits: dict[str, Split] = {}
    for file in sorted(files, key=str):
        name = Path(file.name)
        if name.suffix.lower() in TABLES and not name.stem.lower().startswith(("readme", "license")):
            if name.stem in splits:
                raise VectorFitError(f"{splits[name.stem].where} and {name}: two files of one split; remove one")
            splits[name.stem] = Split(_rows(file, recipe), str(file))
    return splits


def _rows(file: Any, recipe: Recipe) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.name.endswith(".jsonl"):
            return _of_objects([json.loads(line) for line in text.split("\n") if line.strip()])
        if file.name.endswith(".json"):
            return _of_objects(_json(json.loads(text)))
        return _table(text, recipe, comma=file.name.endswith(".csv"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise VectorFitError(f"{file}: cannot be read ({type(error).__name__}: {error}); fetch it again") from error


def _of_objects(rows: list[Any]) -> list[dict[str, Any]]:
    no_object = next((row for row in rows if not isinstance(row, dict)), None)
    if no_object is not None:
        raise ValueError(f"a row is {no_object!r}, expected an object with columns")
    return rows


def _json(content: Any) -> list[dict[str, Any]]:
    """The rows of a list, or of SQuAD's form: articles with paragraphs with questions."""
    rows = content["data"] if isinstance(content, dict) else content
    if not rows or "paragraphs" not in rows[0]:
        return list(rows)
    return [
        {
            "id": question["id"],
            "question": question["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in question["answers"]],
                "answer_start": [answer["answer_start"] for answer in question["answers"]],
            },
        }
        for article in rows
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _table(text: str, recipe: Recipe, comma: bool) -> list[dict[str, Any]]:
    """The rows of a table. GLUE's TSV files do not quote values; CSV files do."""
    form: dict[str, Any] = {"delimiter": ","} if comma else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    lines = list(csv.reader(io.StringIO(text, newline=""), **form))
    if not lines:
        return []
    header: Sequence[str] = lines.pop(0)
    wanted = [name for column in (*recipe.input_columns, recipe.target_column) for name in column.split("|")]
    if recipe.header and len(header) == len(recipe.header) and not set(wanted) & set(header):
        lines, header = [list(header), *lines], recipe.header
    rows = [dict(zip(header, line, strict=False)) for line in lines if line]
    complete = [row for row in rows if len(row) == len(header)]
    # GLUE's QQP has a few incomplete rows, which are left out as usual. Many mean a damaged file: `column` refuses it.
    return complete if len(rows) - len(complete) <= CUT_SHORT * len(rows) else rows


def _pictures(root: Any) -> dict[str, Split]:
    """The splits of folders SPLIT/CLASS/image or CLASS/image."""
    if root.is_file():
        return {}
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if any(_holds_pictures(folder) for folder in folders):
        return {"all": Split(_by_class(root), str(root))}
    splits = {folder.name: Split(_by_class(folder), str(folder)) for folder in folders}
    return {name: split for name, split in splits.items() if len(split)}


def _by_class(folder: Any) -> list[dict[str, Any]]:
    return [
        {"image": file, "label": kind.name}
        for kind in sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: str(entry.name))
        for file in sorted(kind.iterdir(), key=lambda entry: str(entry.name))
        if Path(file.name).suffix.lower() in PICTURES
    ]


def _idx(root: Path) -> dict[str, Split]:
    """The splits of MNIST's files: PREFIX-images-idx3-ubyte and PREFIX-labels-idx1-ubyte, gzipped or not."""
    splits = {}
    for images in sorted(root.glob("*-images-idx3-ubyte*")):
        labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
        if not labels.exists():
            raise VectorFitError(f"{images}: without its labels, expected {labels.name} in the same folder")
        pixels, classes = _idx_array(images), _idx_array(labels)
        if len(pixels) != len(classes):
            raise VectorFitError(f"{images}: {len(pixels)} images, but {len(classes)} labels in {labels.name}")
        rows = [{"image": picture, "label": str(kind)} for picture, kind in zip(pixels, classes, strict=True)]
        prefix = images.name.split("-")[0]
        splits[IDX_SPLITS.get(prefix, prefix)] = Split(rows, str(images))
    return splits


def _idx_array(file: Path) -> Any:
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, IndexError, struct.error, ValueError) as error:
        raise VectorFitError(f"{file}: cannot be read as IDX ({error}); fetch it again") from error


def picture(value: Any) -> Image.Image:
    """The RGB image of a row's value: an array, a PIL image, or a file.

    Raises:
        VectorFitError: the value is none of these, or the file cannot be read as an image.
    """
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, np.ndarray):
        return Image.fromarray(value).convert("RGB")
    if not hasattr(value, "read_bytes"):
        raise VectorFitError(f"an image is {value!r}, expected the file, not its name; use SPLIT/CLASS/image")
    try:
        return Image.open(io.BytesIO(value.read_bytes())).convert("RGB")
    except OSError as error:
        raise VectorFitError(f"{value}: cannot be read as an image ({error}); remove or replace it") from error
