"""What the kinds of task have in common: a pretrained model and its processor, examples, and how answers are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, Trainer

from vectorfit import VectorFitError
from vectorfit.plan import OUTPUT_HEADS

from .data import Data, Split
from .metrics import Scores
from .recipe import Recipe

FRESH = (*OUTPUT_HEADS, "pooler")  # what a pretrained model may lack: a task brings it along, and it is trained whole


class Examples(Protocol):
    """What the model takes, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Task(ABC):
    """One recipe's data and model. `prepare` comes first, then `load`, then the rest."""

    auto_model: ClassVar[Any]
    auto_processor: ClassVar[Any] = AutoTokenizer

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.processor: Any = None

    def load(self, source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, tuple[str, ...]]:
        """The pretrained model, and the paths of its modules that no pretrained weights were there for.

        Raises:
            VectorFitError: the model cannot be had, or it lacks more than a head.
        """
        options = self.model_options()
        try:
            self.processor = self.auto_processor.from_pretrained(source)
            model, told = self.auto_model.from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise VectorFitError(
                f"the model {source!r} cannot be had ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
                "name a local folder with --model, or try --tiny"
            ) from error
        lacking = [*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])]
        fresh = dict.fromkeys(_head_of(name, model) for name in sorted(lacking))
        strangers = sorted(name for name in lacking if _head_of(name, model) is None)
        if strangers:
            raise VectorFitError(f"the model {source!r} has no weights for {strangers[0]}; it is of another kind")
        self.complete(model)
        return model, tuple(path for path in fresh if path is not None)

    def model_options(self) -> dict[str, Any]:
        """What `from_pretrained` is told besides."""
        return {}

    def complete(self, model: PreTrainedModel) -> None:  # noqa: B027 - most tasks have nothing to complete
        """What is still to be set in model and processor, such as a padding token."""

    @abstractmethod
    def prepare(self, data: Data) -> None:
        """Checks the rows, and learns from them what the model must be told. Raises VectorFitError for unfit ones."""

    @abstractmethod
    def examples(self, split: Split, training: bool) -> Examples:
        """A split's rows as the model takes them."""

    @property
    @abstractmethod
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        """Puts examples together to a batch."""

    @abstractmethod
    def score(self, trainer: Trainer, split: Split) -> Scores:
        """How well the trained model does on a split, the number that stands for the run first."""


def _head_of(name: str, model: nn.Module) -> str | None:
    """The path of the head that a parameter belongs to, if any."""
    parts = name.split(".")
    found = next((place for place, part in enumerate(parts) if part in FRESH), None)
    if found is None:
        return None
    path = ".".join(parts[: found + 1])
    return path if isinstance(model.get_submodule(path), nn.Module) else None


def written(trainer: Trainer, task: Task, examples: Examples, **options: Any) -> list[str]:
    """What the trained model writes after each example's prompt, shared out among processes.

    `examples` are prompts as token ids; batches are padded at the side where the model goes on writing.
    """
    state, tokenizer = trainer.accelerator.state, task.processor
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    model.eval()
    size = trainer.args.per_device_eval_batch_size
    mine: list[str] = []
    with (
        trainer.accelerator.split_between_processes([examples[index] for index in range(len(examples))]) as own,
        torch.no_grad(),
    ):
        for batch in _batches(own, size):
            padded = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(state.device)
            with trainer.accelerator.autocast():
                tokens = model.generate(**padded, **options)
            start = 0 if model.config.is_encoder_decoder else padded["input_ids"].shape[1]
            mine += tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
    model.train(was_training)
    if state.num_processes == 1:
        return mine
    from accelerate.utils import gather_object

    return list(gather_object(mine))


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def class_ids(split: Split, column: str, labels: Sequence[str]) -> list[int]:
    """A column's classes as numbers; they may be numbers already, or names.

    Raises:
        VectorFitError: one is outside the set.
    """
    known = {label: index for index, label in enumerate(labels)} | {str(i): i for i in range(len(labels))}
    found = []
    for place, value in enumerate(split.column(column), 1):
        if str(value) not in known:
            raise VectorFitError(
                f"{split.where}: row {place} has the label {value!r}, expected one of {', '.join(labels)} "
                f"(or 0 to {len(labels) - 1})"
            )
        found.append(known[str(value)])
    return found
