"""A task's settings, as in the paper: one TOML file per data set, whose keys are also flags of the command."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vectorfit import AvfSchedule, VectorFitError
from vf_training import methods

FOLDER = Path(__file__).with_name("recipes")
PRECISIONS = ("fp32", "bf16", "bf16_weights")
BIASES = ("layers", "all")
STRENGTHS = ("absolute", "relative")
MIRRORS = ("random", "none", "never")
# VectorFit's rates by trials of ours on a small model, by kind of task: on CoLA's training rows, held out, they came to
# an area under the curve of 63.1, one rate of 1e-2 to 56.9 (benchmarks/tasks_trials, where three of five trials are
# still to be made). Those of other methods are in their registry. The paper's are for the paper's models.
TUNED: Mapping[str, Mapping[str, float]] = {"text_classification": {"learning_rate": 3e-2, "bias_lr": 3e-3}}
TABLE_ROUNDING = 0.02  # the paper rounds epochs and steps: a run this near to them has the table's length


def _key(text: str, default: Any = ...) -> Any:
    """A key of a recipe with its help text. Without a default, every recipe must have it."""
    metadata = {"help": text}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """A data set's settings. Lists are tuples of strings; steps count optimizer updates.

    Raises:
        VectorFitError: values out of range or contradictory, all of them in one message.

    Source: Tables 7 to 13 of the paper, by `source`.
    """

    name: str = _key("the recipe's name")
    kind: str = _key("what the model learns to do")
    source: str = _key("where the settings are from")
    models: tuple[str, ...] = _key("hub ids or folders of models; the first is taken")
    hub: str = _key("the data set on the hub")
    train_split: str = _key("the split to train on")
    test_splits: tuple[str, ...] = _key("the splits to score on; the first one's score stands for the run")
    train_rows: int = _key("training examples that the table's steps were counted on")
    metric: str = _key("the score that is computed")

    learning_rate: float = _key("AdamW's rate of sigma, or of what another method trains; falls linearly to 0")
    epochs: float = _key("passes over the training rows")
    batch_size: int = _key("training examples in an update")
    avf_first_step: int = _key("t_i: the update of the first freezing")
    avf_every: int = _key("t_f: updates between freezings")
    avf_num_freezes: int = _key("n_f: freezings in all")
    avf_top_k: int = _key("k: vectors frozen at a time")

    bias_lr: float = _key("the biases' own rate, of methods that train vectors; 0 is the learning rate", 0.0)
    head_lr: float = _key("the rate of the task's head, the same for every method", 1e-3)
    avf_strength: str = _key("how AVF measures training: absolute (the paper's), or relative to the rate", "absolute")
    hub_config: str = _key("the configuration of the data set on the hub", "")
    input_columns: tuple[str, ...] = _key("columns to read, in order; NAME|OTHER takes the first that exists", ())
    target_column: str = _key("the column with the answer; NAME|OTHER takes the first that exists", "label")
    header: tuple[str, ...] = _key("the columns of a table without a header", ())
    labels: tuple[str, ...] = _key("the classes in order; without them, a number, or folders' names", ())
    gradient_accumulation_steps: int = _key("forward passes per update, which share batch_size", 1)
    precision: str = _key("fp32, bf16 (autocast), or bf16_weights (the frozen weights too)", "fp32")
    gradient_checkpointing: bool = _key("recompute activations to save memory", False)
    group_by_length: bool = _key("put texts of similar length into a batch, to compute less padding", False)
    bias: str = _key("'all' trains the LayerNorms' biases too", "layers")
    max_length: int = _key("tokens of an input", 128)
    max_target_length: int = _key("tokens of a generated answer", 128)
    stride: int = _key("tokens that two consecutive windows of a long passage share", 128)
    num_beams: int = _key("beams of the search for a generated answer", 1)
    mirror: str = _key("mirroring of training images: random or none; never, if it would change the class", "none")
    adapted_matrices: int = _key("weights among which b(T) is divided in the paper's model", 72)
    budget: str = _key("which budget sets the baselines' sizes", "")
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
            raise VectorFitError(f"rates: got {wanted!r}, expected auto, tuned or paper")
        known = TUNED.get(self.kind)
        if wanted == "tuned" and known is None:
            raise VectorFitError(f"rates: no sweep of ours was made for {self.kind}; give paper, or --learning_rate")
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
        problems = [
            f"{name}: got {getattr(self, name)}, expected at least {least}"
            for name, least in (*_LEAST.items(), ("avf_num_freezes", 0), ("stride", 0), ("avf_top_k", 0))
            if getattr(self, name) < least
        ]
        problems += [
            f"{name}: got {getattr(self, name)}, expected more than 0"
            for name in ("learning_rate", "head_lr", "epochs")
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0)
        ]
        if not (math.isfinite(self.bias_lr) and self.bias_lr >= 0):
            problems.append(f"bias_lr: got {self.bias_lr}, expected more than 0, or 0 for the learning rate")
        if self.batch_size % max(1, self.gradient_accumulation_steps):
            problems.append(
                f"batch_size: got {self.batch_size}, expected a multiple of gradient_accumulation_steps "
                f"({self.gradient_accumulation_steps})"
            )
        if self.group_by_length and self.kind == "image_classification":
            problems.append("group_by_length: got true, expected false: images are of one length")
        if len(set(self.labels)) < len(self.labels) or len(self.labels) == 1:
            problems.append(f"labels: got {', '.join(self.labels)}, expected two or more that differ")
        if self.metric == "accuracy_f1" and len(self.labels) != 2:
            problems.append(f"labels: got {len(self.labels)}, expected two: F1 is computed for the second")
        choices_of = {"precision": PRECISIONS, "mirror": MIRRORS, "budget": tuple(self.budgets), "bias": BIASES}
        choices_of |= {"avf_strength": STRENGTHS}
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name}: got {getattr(self, name)!r}, expected {_either(choices)}")
        if problems:
            raise VectorFitError("; ".join(problems))

    def changed(self, **values: Any) -> "Recipe":
        """The recipe with other values. Raises VectorFitError if its images must not be mirrored."""
        if self.mirror == "never" and values.get("mirror", "never") != "never":
            raise VectorFitError(
                f"mirror: got {values['mirror']!r}, but a mirrored image of {self.name} is of another class; remove it"
            )
        return replace(self, **values)


_LEAST = dict.fromkeys(
    (
        *("batch_size", "train_rows", "gradient_accumulation_steps", "max_length", "max_target_length", "num_beams"),
        *("avf_first_step", "avf_every", "adapted_matrices"),
    ),
    1,
)


def _either(choices: Any) -> str:
    return " or ".join([", ".join(list(choices)[:-1]), list(choices)[-1]]) if len(choices) > 1 else ", ".join(choices)


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Recipe:
    """A recipe by name. Raises VectorFitError for an unknown one, with the nearest names."""
    file = FOLDER / f"{name}.toml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3, 0.4)
        hint = f"the nearest: {', '.join(near)}; " if near else ""
        raise VectorFitError(f"no recipe is called {name!r}; {hint}there are {', '.join(names())}")
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    values: dict[str, Any] = {"name": name, "budgets": content.pop("budgets")}
    for section in content.values():
        values |= section
    unknown = values.keys() - {item.name for item in fields(Recipe)}
    if unknown:
        raise VectorFitError(f"{file}: unknown keys {sorted(unknown)}")
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Recipe(**frozen)
