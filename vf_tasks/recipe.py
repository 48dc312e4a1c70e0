"""A task's settings, as in the paper: one TOML file per data set, whose keys are also flags of the command."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vectorfit import AvfSchedule, VectorFitError
from vf_training import methods
from vf_training.command_line import did_you_mean
from vf_training.options import above, at_least, not_with, option, problems_of

FOLDER = Path(__file__).with_name("recipes")
# VectorFit's rates by trials of ours on a small model, by kind of task: on CoLA's training rows, held out, they came to
# an area under the curve of 63.1, one rate of 1e-2 to 56.9 (benchmarks/tasks_trials, where two of five trials are
# still to be made). Those of other methods are in their registry. The paper's are for the paper's models.
TUNED: Mapping[str, Mapping[str, float]] = {"text_classification": {"learning_rate": 3e-2, "bias_lr": 3e-3}}
GROUP = "the recipe's keys"
# What --tiny puts in the place of a recipe's settings.
TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "num_beams": 2,
    "max_length": 64,
    "max_target_length": 8,
    "stride": 8,
    "precision": "fp32",
    "gradient_checkpointing": False,
}
TABLE_ROUNDING = 0.02  # the paper rounds epochs and steps: a run this near to them has the table's length
POSITIVE, NOT_NEGATIVE, REAL = (at_least(1),), (at_least(0),), (above(0),)


def _fixed(text: str, default: Any = MISSING, **more: Any) -> Any:
    """A key that defines the recipe; it is no flag."""
    return option(default, text, group="", **more)


def _key(text: str, default: Any = MISSING, **more: Any) -> Any:
    """A key that is also a flag. Without a default, every recipe must have it."""
    return option(default, text, group=GROUP, **more)


def _different(labels: tuple[str, ...]) -> str:
    """A check: there is a choice between the labels."""
    if len(set(labels)) == len(labels) != 1:
        return ""
    return f"got {', '.join(labels)}, expected two or more that differ"


def _f1_conflict(values: Mapping[str, Any]) -> str:
    if values["metric"] != "accuracy_f1" or len(values["labels"]) == 2:
        return ""
    return f"accuracy_f1 computes F1 for the second of two labels, got {len(values['labels'])} labels"


def _split_conflict(values: Mapping[str, Any]) -> str:
    parts = values["gradient_accumulation_steps"]
    if values["batch_size"] % max(1, parts) == 0:
        return ""
    return f"got {values['batch_size']}, expected a multiple of gradient_accumulation_steps ({parts})"


def _budget_conflict(values: Mapping[str, Any]) -> str:
    if values["budget"] in values["budgets"]:
        return ""
    return f"got {values['budget']!r}, expected {_either(values['budgets'])}"


@dataclass(frozen=True)
class Recipe:
    """A data set's settings. Lists are tuples of strings; steps count optimizer updates.

    Raises:
        VectorFitError: values out of range or contradictory, all of them in one message.

    Source: Tables 7 to 13 of the paper, by `source`.
    """

    name: str = _fixed("the recipe's name")
    kind: str = _fixed("what the model learns to do")
    source: str = _fixed("where the settings are from")
    models: tuple[str, ...] = _fixed("hub ids or folders of models; the first is taken")
    hub: str = _key("the data set on the hub")
    train_split: str = _key("the split to train on")
    test_splits: tuple[str, ...] = _key("the splits to score on; the first one's score stands for the run")
    train_rows: int = _fixed("training examples that the table's steps were counted on", checks=POSITIVE)
    metric: str = _fixed("the score that is computed", conflict=_f1_conflict)

    learning_rate: float = _key(
        "AdamW's rate of sigma, or of what another method trains; falls linearly to 0", checks=REAL
    )
    epochs: float = _key("passes over the training rows", checks=REAL)
    batch_size: int = _key("training examples in an update", checks=POSITIVE, conflict=_split_conflict)
    avf_first_step: int = _key("t_i: the update of the first freezing", checks=POSITIVE)
    avf_every: int = _key("t_f: updates between freezings", checks=POSITIVE)
    avf_num_freezes: int = _key("n_f: freezings in all", checks=NOT_NEGATIVE)
    avf_top_k: int = _key("k: vectors frozen at a time", checks=NOT_NEGATIVE)
    budget: str = _key("which budget sets the baselines' sizes", conflict=_budget_conflict)

    bias_lr: float = _key(
        "the biases' own rate, of methods that train vectors; 0 is the learning rate", 0.0, checks=NOT_NEGATIVE
    )
    head_lr: float = _key("the rate of the task's head, the same for every method", 1e-3, checks=REAL)
    avf_strength: str = _key(
        "how AVF measures training: absolute, as in the paper, or relative to the rate",
        "absolute",
        choices=("absolute", "relative"),
    )
    hub_config: str = _key("the configuration of the data set on the hub", "")
    input_columns: tuple[str, ...] = _key("columns to read, in order; NAME|OTHER takes the first that exists", ())
    target_column: str = _key("the column with the answer; NAME|OTHER takes the first that exists", "label")
    header: tuple[str, ...] = _key("the columns of a table without a header", ())
    labels: tuple[str, ...] = _key(
        "the classes in order; without them, a number, or folders' names", (), checks=(_different,)
    )
    gradient_accumulation_steps: int = _key("forward passes per update, which share batch_size", 1, checks=POSITIVE)
    precision: str = _key(
        "bf16 is autocast; with bf16_weights the frozen weights are too",
        "fp32",
        choices=("fp32", "bf16", "bf16_weights"),
    )
    gradient_checkpointing: bool = _key("recompute activations to save memory", False)
    group_by_length: bool = _key(
        "put texts of similar length into a batch, to compute less padding",
        False,
        conflict=not_with("kind", "image_classification", "images are of one length; leave it out"),
    )
    bias: str = _key("'all' trains the LayerNorms' biases too", "layers", choices=("layers", "all"))
    max_length: int = _key("tokens of an input", 128, checks=POSITIVE)
    max_target_length: int = _key("tokens of a generated answer", 128, checks=POSITIVE)
    stride: int = _key("tokens that two consecutive windows of a long passage share", 128, checks=NOT_NEGATIVE)
    num_beams: int = _key("beams of the search for a generated answer", 1, checks=POSITIVE)
    mirror: str = _key(
        "mirroring of training images; never, if it would change the class",
        "none",
        choices=("random", "none", "never"),
    )
    adapted_matrices: int = _key("weights among which b(T) is divided in the paper's model", 72, checks=POSITIVE)
    budgets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # the baselines' sizes, by budget

    @property
    def model(self) -> str:
        return self.models[0]

    def size(self, method: str) -> int:
        """The size of a baseline in the budget: r, d or b(T). Raises VectorFitError if the budget has none for it."""
        if not methods.find(method).size_of:
            return 0
        sizes = self.budgets[self.budget]
        if method not in sizes:
            holding = [name for name, sizes_of in self.budgets.items() if method in sizes_of]
            raise VectorFitError(f"budget {self.budget!r} of {self.name} has no {method}, expected {_either(holding)}")
        return sizes[method]

    def rates(self, method: str, model: str | None, wanted: str = "auto") -> dict[str, float]:
        """A method's rates by the names of their keys: the paper's for its models, ours where a sweep found them.

        `model` is the one that replaces the recipe's, if any; `wanted` is auto, tuned or paper.

        Raises:
            VectorFitError: `wanted` is another word, or tuned where no sweep was made.
        """
        if wanted not in ("auto", "tuned", "paper"):
            raise VectorFitError(f"--rates: got {wanted!r}, expected auto, tuned or paper")
        known = TUNED.get(self.kind)
        if wanted == "tuned" and known is None:
            raise VectorFitError(f"--rates: no sweep of ours was made for {self.kind}; give paper, or --learning_rate")
        own = methods.find(method, methods.TASKS)
        if known is None or wanted == "paper" or (wanted == "auto" and model in (None, *self.models)):
            return {"learning_rate": own.rate(methods.TASKS, self.learning_rate)}
        paper = own.rate(methods.TASKS, known["learning_rate"])
        rates = {"learning_rate": own.rate(methods.SMALL_MODELS, paper)}
        return rates | ({"bias_lr": known["bias_lr"]} if own.trains_biases else {})

    @property
    def table_steps(self) -> int:
        """Updates of the paper's own run."""
        original = read(self.name)
        return round(original.epochs * math.ceil(original.train_rows / original.batch_size))

    def schedule(self, total_steps: int) -> AvfSchedule:
        """The freezing steps of a run of `total_steps` updates: the table's steps, scaled to the run's length.

        Steps that were changed for this run are not scaled.
        """
        ratio = total_steps / self.table_steps
        if abs(ratio - 1) <= TABLE_ROUNDING:
            ratio = 1.0
        original = read(self.name)
        scaled = {
            name: max(1, round(ratio * getattr(self, name)))
            if getattr(self, name) == getattr(original, name)
            else given
            for name, given in (("avf_first_step", self.avf_first_step), ("avf_every", self.avf_every))
        }
        return AvfSchedule(scaled["avf_first_step"], scaled["avf_every"], self.avf_num_freezes)

    def __post_init__(self) -> None:
        if problems := problems_of(Recipe, vars(self)):
            raise VectorFitError("\n".join(problems.values()))

    def changed(self, **values: Any) -> "Recipe":
        """The recipe with other values. Raises VectorFitError if its images must not be mirrored."""
        if self.mirror == "never" and values.get("mirror", "never") != "never":
            raise VectorFitError(
                f"--mirror: got {values['mirror']!r}, but a mirrored image of {self.name} is of another class; "
                "remove it"
            )
        return replace(self, **values)


def _either(choices: Any) -> str:
    return " or ".join([", ".join(list(choices)[:-1]), list(choices)[-1]]) if len(choices) > 1 else ", ".join(choices)


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """A recipe by name. Raises VectorFitError for an unknown one, with the nearest names."""
    file = FOLDER / f"{name}.toml"
    if name not in names():
        near = did_you_mean(name, names())
        raise VectorFitError(f"no recipe is called {name!r}; {near}{' ' * bool(near)}there are {', '.join(names())}")
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {"name": name, "budgets": content.pop("budgets")}
    for section in content.values():
        values |= section
    unknown = values.keys() - {item.name for item in fields(Recipe)}
    if unknown:
        raise VectorFitError(f"{file}: unknown keys {sorted(unknown)}")
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Recipe(**frozen)
