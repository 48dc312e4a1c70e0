"""One run of a task: reads data and model, puts the method in, trains with transformers' Trainer, scores, writes."""

import math
import platform
import shutil
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import Trainer, set_seed

from vectorfit import VectorFitError
from vf_training import methods
from vf_training.device import has_accelerator, peak_memory
from vf_training.runs import RunFolder

from . import data, sharding, tiny
from .image_classification import ImageClassification
from .maths import Maths
from .metrics import Scores
from .quantisation import quantise
from .question_answering import QuestionAnswering
from .recipe import Recipe, read
from .results import RESULT, Cost, flat, read_result, write_result
from .run_options import Options
from .summarization import Summarization
from .task import Examples, Task
from .text_classification import TextClassification
from .trainer import make, total_steps, train

KINDS: dict[str, type[Task]] = {
    "text_classification": TextClassification,
    "question_answering": QuestionAnswering,
    "summarization": Summarization,
    "maths": Maths,
    "image_classification": ImageClassification,
}


def default_folder(recipe: Recipe, options: Options) -> Path:
    size = recipe.size(options.method)
    name = f"{options.method}{size or ''}-{options.seed}"
    return Path("runs") / "tasks" / (f"{recipe.name}-tiny" if options.tiny else recipe.name) / name


def run(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Trains and scores. A stopped run with the same settings is resumed; of a finished one only the result is read.

    Raises:
        VectorFitError: bad input, or the folder has another run.
    """
    sharding.check(options)
    PartialState(cpu=not has_accelerator())  # otherwise each process on a CPU would train alone
    folder = RunFolder(options.output_dir or default_folder(recipe, options))
    full_recipe = recipe
    if options.tiny:
        recipe, options = _tiny(recipe, options, folder)
    settings = {"recipe": asdict(recipe), **asdict(options)}
    del settings["output_dir"]
    if not _begins(folder, settings):
        return read_result(folder)
    if options.tiny:
        _write_tiny(full_recipe, folder)
    task = KINDS[recipe.kind](recipe)
    rows = data.read(recipe, options.data).limited(options.max_train_rows, options.holdout)
    task.prepare(rows)
    dtype = torch.bfloat16 if recipe.precision == "bf16_weights" else torch.float32
    processes = sharding.mesh() if options.shard else None

    def made() -> tuple[methods.Trained, Examples, int]:
        set_seed(options.seed)
        model, head = task.load(recipe.model, dtype)
        quantise(model, options.quantise, head)
        examples = task.examples(rows.train, training=True)
        steps = total_steps(recipe, len(examples))
        trained = put_in(options.method, model, head, recipe, steps, options.seed, options.factors)
        sharding.shard(model, processes)
        return trained, examples, steps

    trained, examples, steps = sharding.in_turn(made) if options.shard else made()
    announce(recipe, options, trained, rows, steps)
    if PartialState().is_main_process:
        folder.write_config({"settings": settings, "steps": steps, "versions": _versions()})
    trainer, log = make(recipe, options.seed, task, trained, examples, folder, steps, shards=options.shard)
    train(trainer, log, steps)
    seconds, memory = log.seconds, peak_memory()  # before scoring, which is not part of the training
    scores = _scores(task, trainer, rows)
    first = trainer.is_world_process_zero()
    if first:
        _check(scores, folder)
    if first or sharding.is_sharded(trained.models[""]):
        methods.save(trained, folder.vectors, base_model=recipe.model, write=first)
    if first:
        epochs = steps / math.ceil(len(examples) / recipe.batch_size)
        cost = Cost(seconds, epochs, memory, folder.vectors.stat().st_size)
        write_result(folder, settings, trained, scores, cost, steps, len(rows.train))
        shutil.rmtree(folder.checkpoints_folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return read_result(folder)


def put_in(
    method: str,
    model: nn.Module,
    head: tuple[str, ...],
    recipe: Recipe,
    total_steps: int,
    seed: int,
    factors: str = "auto",
) -> methods.Trained:
    """Puts a method into a task's model, in place. The recipe's budget gives its size.

    Raises:
        VectorFitError: the method is unknown, the budget has no size for it, or there is nothing to train.
    """
    methods.find(method, methods.TASKS)
    options = methods.Options(
        size=recipe.size(method),
        heads=head,
        bias=recipe.bias,
        seed=seed,
        total_steps=total_steps,
        adapted_matrices=recipe.adapted_matrices,
        factors=factors,
    )
    return methods.put_in(method, model, options)


def _tiny(recipe: Recipe, options: Options, folder: RunFolder) -> tuple[Recipe, Options]:
    """The recipe with a tiny model, and with a few rows unless --data names others."""
    tiny_folder = folder.path / "tiny"
    data_folder = options.data or str(tiny_folder / "data")
    return recipe.changed(models=(str(tiny_folder / "model"),)), replace(options, data=data_folder)


def _write_tiny(recipe: Recipe, folder: RunFolder) -> None:
    tiny_folder = folder.path / "tiny"
    if PartialState().is_main_process:
        for part in ("model", "data"):
            (tiny_folder / part).mkdir(parents=True, exist_ok=True)
        tiny.write_model(recipe, tiny_folder / "model")
        tiny.write_data(recipe, tiny_folder / "data")
    PartialState().wait_for_everyone()


def _begins(folder: RunFolder, settings: dict[str, Any]) -> bool:
    """Whether there is something to train. Raises VectorFitError if the folder has a run with other settings."""
    if not folder.config.exists():
        if folder.path.exists() and any(entry.name != "tiny" for entry in folder.path.iterdir()):
            raise VectorFitError(f"{folder.path}: holds something else than a run; name another --output_dir")
        return True
    config: Any = folder.read_config()
    earlier = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(earlier, dict) or "recipe" not in earlier:
        raise VectorFitError(f"{folder.path}: holds something else than a run of a task; name another --output_dir")
    current = flat(settings)
    unlike = [name for name, value in flat(earlier).items() if current.get(name) != value]
    if unlike:
        name = unlike[0]
        raise VectorFitError(
            f"{folder.path}: holds a run with {name} = {flat(earlier)[name]!r}, not {current.get(name)!r}; name "
            "another --output_dir, or remove it"
        )
    finished = (folder.path / RESULT).exists()
    if not finished and "head_lr" not in flat(earlier):
        raise VectorFitError(
            f"{folder.path}: holds a stopped run of version 0.1.0, which had one rate for method and head; name "
            "another --output_dir, or remove it"
        )
    return not finished


def _scores(task: Task, trainer: Trainer, rows: data.Data) -> Scores:
    """The scores on every split. Scores of the second and later splits end with the split's name."""
    scores: Scores = {}
    for name, split in rows.tests.items():
        suffix = f"_{name.rpartition('_')[2]}" if scores else ""
        scores |= {f"{metric}{suffix}": value for metric, value in task.score(trainer, split).items()}
    return scores


def _check(scores: Scores, folder: RunFolder) -> None:
    infinite = next((name for name, value in scores.items() if not math.isfinite(value)), None)
    if infinite is not None:
        raise VectorFitError(f"{folder.path}: {infinite} is {scores[infinite]}; lower --learning_rate")


def announce(recipe: Recipe, options: Options, trained: methods.Trained, rows: data.Data, steps: int) -> None:
    """Prints to stderr what will be trained."""
    if not PartialState().is_main_process:
        return
    counts, method = trained.counts, trained.method
    share = 100 * counts["parameters"] / counts["base_parameters"]
    size = f" (size {trained.size}, budget {recipe.budget})" if trained.size else ""
    lines = {
        "task": f"{recipe.name}: {recipe.kind}, {recipe.metric}; settings from {recipe.source}",
        "model": recipe.model,
        "data": f"{len(rows.train):,} rows of {rows.train.where}; scored on "
        + ", ".join(f"{len(split):,} of {split.where}" for split in rows.tests.values()),
        "method": f"{method.name}{size}: {counts['parameters']:,} of {counts['base_parameters']:,} parameters "
        f"({share:.4f} %), {counts['head_parameters']:,} in the head ({', '.join(trained.heads) or 'none'})",
        "training": f"{steps} updates of {recipe.batch_size}, {_rates(recipe, trained)}, "
        f"seed {options.seed}, {recipe.precision}",
    }
    if trained.method.trains_vectors and trained.plan.storages.keys() - {"float32"}:
        kept = ", ".join(f"{storage} in {count} layers" for storage, count in trained.plan.storages.items())
        lines["factors"] = f"{kept}; {trained.plan.factor_bytes / 2**30:.2f} GiB"
    if options.quantise != "none":
        lines["base"] = f"quantised to {options.quantise}; the factors are those of the dequantised weights"
    if sharding.is_sharded(trained.models[""]):
        lines["sharding"] = f"weights, factors and vectors in {PartialState().num_processes} parts, one a process"
    if method.trains_biases and trained.plan.idle:
        lines["left out"] = f"the biases of {len(trained.plan.idle)} attention keys, which softmax cancels"
    if method.freezing is not None:
        schedule, original = recipe.schedule(steps), read(recipe.name)
        lines["freezing"] = (
            f"{recipe.avf_top_k} vectors at update {schedule.first_step}, then every {schedule.every}, "
            f"{schedule.num_freezes} times; "
            f"in the recipe, of {recipe.table_steps} updates: {original.avf_first_step}, {original.avf_every}"
        )
    for name, text in lines.items():
        print(f"{name:10} {text}", file=sys.stderr)


def _rates(recipe: Recipe, trained: methods.Trained) -> str:
    special = {"biases": recipe.bias_lr if trained.method.trains_biases else 0.0}
    special |= {"head": recipe.head_lr if trained.heads else 0.0}
    told = ", ".join(f"{what} {rate:g}" for what, rate in special.items() if rate)
    return f"rate {recipe.learning_rate:g}" + (f" ({told})" if told else "")


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "datasets")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
