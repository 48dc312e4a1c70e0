"""What all kinds of task share: they load a pretrained model and its processor, make examples, and score answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, Trainer

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.modules import vectorfit_layers
from vectorfit.planning import OUTPUT_HEADS
from vf_training.device import has_accelerator

from .data import Data, Split
from .metrics import Scores
from .recipe import Recipe
from .sharding import is_sharded

POOLER = "pooler"
FRESH = (*OUTPUT_HEADS, POOLER)  # parts that a pretrained model may lack; the task trains them whole


class Examples(Protocol):
    """The model's inputs, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Task(ABC):
    """One recipe's data and model. `prepare` comes first, then `load`, then the rest."""

    auto_model: ClassVar[Any]
    auto_processor: ClassVar[Any] = AutoTokenizer
    heads: ClassVar[tuple[str, ...]] = ()  # trained whole even if the pretrained model has them
    inputs: ClassVar[tuple[int, ...]] = (1,)  # how many columns are read
    averages_over_tokens: ClassVar[bool] = False  # the loss, over all forward passes of an update together

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        if len(recipe.input_columns) not in self.inputs:
            raise VectorFitError(
                f"input_columns: got {', '.join(recipe.input_columns) or 'none'}, expected "
                f"{' or '.join(map(str, self.inputs))} of them"
            )
        self.processor: Any = None

    def load(self, source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, tuple[str, ...]]:
        """The pretrained model, and the paths of its head, which every method trains whole.

        The head is what the pretrained model lacks, what `heads` names, and a pooler that pretraining never used.

        Raises:
            VectorFitError: the model cannot be loaded, or it lacks more than a head.
        """
        options = self.model_options()
        if self.recipe.precision == "bf16" and not has_accelerator():
            options["attn_implementation"] = "eager"  # up to 2.5 times as fast as torch's own under autocast on CPUs
        try:
            self.processor = self.auto_processor.from_pretrained(source)
            model, loading_info = self.auto_model.from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except Exception as error:  # a damaged or foreign folder makes the libraries raise many kinds
            first_line = next(iter(str(error).strip().splitlines()), "")
            raise VectorFitError(
                f"the model {source!r} cannot be loaded ({type(error).__name__}: {first_line}); name a local folder "
                "with --model, or try --tiny"
            ) from error
        self._require_words(source)
        lacking = [*loading_info["missing_keys"], *(entry[0] for entry in loading_info["mismatched_keys"])]
        fresh = dict.fromkeys(_head_of(name) for name in sorted(lacking))
        other = sorted(name for name in lacking if _head_of(name) is None)
        if other:
            raise VectorFitError(f"the model {source!r} has no weights for {other[0]}; it is of another kind")
        self.complete(model)
        existing = {
            path: None
            for path, module in model.named_modules()
            if path.split(".")[-1] in self.heads or (path.split(".")[-1] == POOLER and _is_unused(module))
        }
        return model, tuple(path for path in {**fresh, **existing} if path is not None)

    def _require_words(self, source: str) -> None:
        """Refuses the empty tokenizer that transformers makes if the model's own is missing."""
        unknown = getattr(self.processor, "unk_token_id", None)
        if unknown is None or not callable(self.processor):
            return
        words = self.processor("The answer is in the middle of it.", add_special_tokens=False)["input_ids"]
        if all(word == unknown for word in words):
            raise VectorFitError(f"the model {source!r} comes without a tokenizer; put its tokenizer.json there too")

    def model_options(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained`."""
        return {}

    def complete(self, model: PreTrainedModel) -> None:  # noqa: B027 - most tasks have nothing to complete
        """Sets what model and processor lack, such as a padding token."""

    @abstractmethod
    def prepare(self, data: Data) -> None:
        """Checks the rows, and takes from them what the model needs, such as the classes. Raises VectorFitError."""

    @abstractmethod
    def examples(self, split: Split, training: bool) -> Examples:
        """A split's rows as inputs of the model: `Rows` of `example`, unless a row makes several."""

    @property
    @abstractmethod
    def collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        """Makes a batch of examples."""

    @abstractmethod
    def score(self, trainer: Trainer, split: Split) -> Scores:
        """The scores of the trained model on a split; the first one is the run's score."""


class OfRows(Protocol):
    """A task in which every row makes one example."""

    recipe: Recipe

    def example(self, row: Mapping[str, Any], training: bool) -> Any:
        """The model's input made from one row, whose columns have the recipe's names."""


class Rows(torch.utils.data.Dataset[Any]):
    """A split's rows, made into examples when they are read: a large data set would not fit into memory."""

    def __init__(self, task: OfRows, split: Split, training: bool) -> None:
        self.task, self.split, self.training = task, split, training
        wanted = (*task.recipe.input_columns, task.recipe.target_column)
        self.names = {name: split.name(name) for name in wanted}

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        row = self.split[index]
        return self.task.example({name: row[column] for name, column in self.names.items()}, self.training)


def _is_unused(pooler: nn.Module) -> bool:
    """Whether pretraining never used a pooler: its biases are exactly 0, as they began, and its weights noise.

    A model that was pretrained with the mean of all tokens comes with such a pooler.
    """
    biases = [value for name, value in pooler.named_parameters() if name.split(".")[-1] == "bias"]
    return bool(biases) and not any(bias.any() for bias in biases)


def _head_of(name: str) -> str | None:
    """The path of the head that a parameter belongs to, if any."""
    parts = name.split(".")
    index = next((index for index, part in enumerate(parts) if part in FRESH), None)
    return None if index is None else ".".join(parts[: index + 1])


def written(trainer: Trainer, task: Task, examples: Examples, **options: Any) -> list[str]:
    """The texts that the trained model writes after each example's prompt. Processes share the examples.

    `examples` are prompts as token ids; the tokenizer's padding side must suit the model's generation.
    """
    state, tokenizer = trainer.accelerator.state, task.processor
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    model.eval()
    size = trainer.args.per_device_eval_batch_size
    texts: list[str] = []
    prompts, split = [examples[index] for index in range(len(examples))], is_sharded(model)
    if split:  # every process takes part in every forward pass: equal shares, and no end before the others'
        options["synced_gpus"] = True
    with (
        composed_once(model),
        trainer.accelerator.split_between_processes(prompts, apply_padding=split) as share,
        torch.no_grad(),
    ):
        for batch in _batches(share, size):
            padded = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(state.device)
            with trainer.accelerator.autocast():
                tokens = model.generate(**padded, **options)
            start = 0 if model.config.is_encoder_decoder else padded["input_ids"].shape[1]
            texts += tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
    model.train(was_training)
    if state.num_processes == 1:
        return texts
    from accelerate.utils import gather_object

    own, more = divmod(len(prompts), state.num_processes)
    texts = texts[: own + (state.process_index < more)]  # without what made the shares equal
    return list(gather_object(texts))


def composed_once(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Within the context VectorFit's layers compose no weight: generating would do so for every token.

    Weights of less than float32 and quantised ones stay unmerged, because merging would round small changes away; those
    compose nothing. So do weights that are split among processes.
    """
    layers = [layer for _, layer in vectorfit_layers(model)]
    whole = (
        layers
        and not is_sharded(model)
        and all(layer.can_merge and layer.weight.dtype == torch.float32 for layer in layers)
    )
    return vf.merged(model) if whole else nullcontext()


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def class_id(value: Any, labels: Sequence[str]) -> int:
    """The index of a class, given by its name, or by its index if no class has a number as its name.

    Raises:
        ValueError: there is no such class.
    """
    if str(value) in labels:
        return list(labels).index(str(value))
    if any(label.isdecimal() for label in labels) or not 0 <= int(value) < len(labels):
        raise ValueError(value)
    return int(value)


def class_ids(split: Split, column: str, labels: Sequence[str]) -> list[int]:
    """The indices of a column's classes.

    Raises:
        VectorFitError: a value is not one of the classes.
    """
    known: dict[Any, int] = {}
    for number, value in enumerate(values := split.column(column), 1):
        if value not in known:
            try:
                known[value] = class_id(value, labels)
            except (ValueError, TypeError) as error:
                raise VectorFitError(
                    f"{split.where}: row {number} has the label {value!r}, expected one of {', '.join(labels)}"
                ) from error
    return [known[value] for value in values]
