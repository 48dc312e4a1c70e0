"""transformers' Trainer as the tasks use it: its settings, its checkpoints, its log."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vectorfit import VectorFitError, parameter_groups
from vectorfit.transformers import AVFCallback
from vf_training.device import has_accelerator
from vf_training.methods import Trained
from vf_training.methods.method import parameters_of
from vf_training.runs import RunFolder

from . import sharding
from .recipe import Recipe
from .task import Examples, Task

LOG_KEYS = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}  # Trainer's name: the run folder's
LOGGED = 2000  # lines of a log, about, for a run of any length
CHECKPOINTS = 20  # in a run: a killed run loses at most a twentieth
WORKERS = 4  # processes that prepare the examples while an accelerator trains
TRAINED = "trained.pt"  # in a checkpoint
POOL = 50  # batches whose examples are sorted together; each pool is a random part of the data


class ByLength(Sampler[int]):
    """Yields every example once per epoch. The examples of a batch have similar lengths; the batches are shuffled."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # From seed and epoch only: a resumed run has the order of the stopped one, and all processes have the same.
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        size = POOL * self.batch_size
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        in_batches = len(order) // self.batch_size * self.batch_size  # the smaller batch stays the last
        batches = random.permutation(order[:in_batches].reshape(-1, self.batch_size))
        return iter([*batches.reshape(-1).tolist(), *order[in_batches:].tolist()])


class TaskTrainer(Trainer):
    """Trainer whose checkpoints hold what is trained, not the whole model."""

    trained: Trained
    rates: Mapping[str, float]
    run: RunFolder
    group_by_length = False
    run_shards = False  # checkpoints are torch.distributed.checkpoint's, which any number of processes can load

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not sharding.is_sharded(model):  # each part is where it belongs
            super()._move_model_to_device(model, device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer with the rates by the names of what is trained."""
        kind, options = self.get_optimizer_cls_and_kwargs(self.args)
        groups = parameter_groups(self.trained.parameters, self.rates)
        # The log has the rate of the first group: the method's own, not the head's.
        optimizer: torch.optim.Optimizer = kind(sorted(groups, key=lambda group: group["name"] != "*"), **options)
        self.optimizer = optimizer
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if not self.group_by_length:
            sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        examples: Any = train_dataset or self.train_dataset
        lengths = [len(examples[index]["input_ids"]) for index in range(len(examples))]
        parts = self.args.gradient_accumulation_steps * self.args.world_size
        return ByLength(lengths, self.args.per_device_train_batch_size * parts, self.args.seed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a checkpoint under Trainer's name, and moves it to the name of the run folder when it is complete."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process has its own random state in it
        if not self.is_world_process_zero():
            return
        step = self.state.global_step
        with self.run.new_checkpoint(step) as folder:
            for file in (Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}").iterdir():
                file.rename(folder / file.name)
        self.run.keep_checkpoints([step])

    def _clip_grad_norm(self, model: Any) -> Any:
        if sharding.is_sharded(self.model):
            # Hooks of gradients do not run on parts of a vector: a frozen one would count in the norm.
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, AVFCallback):
                    callback.on_pre_optimizer_step(self.args, self.state, self.control)
        return super()._clip_grad_norm(model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.run_shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer: Any = self.optimizer
        sharding.save_checkpoint(Path(output_dir), self.model, _trainable(self.trained), optimizer.optimizer)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.run_shards:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        sharding.load_optimizer(Path(checkpoint), self.model, optimizer.optimizer)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.run_shards:  # `_save_optimizer_and_scheduler` saves both, each process its own part
            return
        parameters = {name: value.detach().cpu().contiguous() for name, value in _trainable(self.trained).items()}
        allocation = self.trained.method.technique.state(self.trained)
        torch.save({"parameters": parameters, "allocation": allocation}, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.run_shards:
            sharding.load_parameters(Path(resume_from_checkpoint), _trainable(self.trained))
            return
        saved = torch.load(Path(resume_from_checkpoint) / TRAINED, weights_only=True)
        parameters, values = _trainable(self.trained), saved["parameters"]
        if parameters.keys() != values.keys() or any(parameters[n].shape != values[n].shape for n in parameters):
            unlike = sorted(parameters.keys() ^ values.keys()) or ["the shapes"]
            raise VectorFitError(f"{resume_from_checkpoint}: of another training, {unlike[0]} differs")
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)
        self.trained.method.technique.load_state(self.trained, saved["allocation"])


def _trainable(trained: Trained) -> dict[str, torch.nn.Parameter]:
    """The trained parameters, by their names in the model."""
    return {name: parameter for name, parameter in parameters_of(trained.models).items() if parameter.requires_grad}


class AfterUpdate(TrainerCallback):
    """Calls the method after each update: AdaLoRA distributes its budget again."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The gradients still exist here; AdaLoRA measures importance with them.
        self.trained.method.technique.after_update(self.trained, state.global_step + 1)


def rates_of(recipe: Recipe, trained: Trained) -> dict[str, float]:
    """The learning rates by pattern of names, as `vectorfit.parameter_groups` takes them.

    The head's is every method's: a method is not better because its own rate suits a head.
    """
    rates = {f"{path}.*": recipe.head_lr for path in trained.heads}
    if recipe.bias_lr and trained.method.trains_biases:
        rates["*.bias"] = recipe.bias_lr
    beside = any(not trained.in_head(name) for name in trained.parameters)
    return {**rates, **({"*": recipe.learning_rate} if beside else {})}


def callbacks_of(trained: Trained, recipe: Recipe, seed: int, steps: int) -> list[TrainerCallback]:
    """The callbacks of a method: its freezing, and what it does after an update."""
    callbacks: list[TrainerCallback] = [AfterUpdate(trained)]
    freezing = trained.method.freezing
    if freezing is not None:
        schedule, own = recipe.schedule(steps), partial(freezing, seed=seed)
        if recipe.avf_strength == "relative":
            groups = parameter_groups(trained.parameters, rates_of(recipe, trained))
            rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
            own = partial(own, rates={name: rate_of[id(parameter)] for name, parameter in trained.parameters.items()})
        callbacks.append(AVFCallback(**vars(schedule), top_k=recipe.avf_top_k, freezing=own))
    return callbacks


class Log(TrainerCallback):
    """Writes a line to log.jsonl every few updates, and shows a progress bar on stderr."""

    def __init__(self, run: RunFolder, callbacks: Sequence[TrainerCallback]) -> None:
        self.run, self.callbacks, self.bar, self.earlier = run, callbacks, tqdm(disable=True), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.cut_log(state.global_step)
        self.resume_clock()
        self.bar = tqdm(
            desc="training",
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            file=sys.stderr,
            mininterval=1,
        )

    def resume_clock(self) -> None:
        """Starts from the seconds in the log of a stopped run."""
        self.earlier = max((entry["seconds"] for entry in self.run.read_log()), default=0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all parts of a resumed run."""
        return self.earlier + float(self.bar.format_dict["elapsed"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not (logs and "loss" in logs):
            return
        if not math.isfinite(logs["loss"]):
            raise VectorFitError(f"the loss is {logs['loss']} at update {state.global_step}; lower --learning_rate")
        if not state.is_world_process_zero:
            return
        values = {key: logs[name] for name, key in LOG_KEYS.items() if name in logs}
        frozen = next((c.avf.frozen for c in self.callbacks if isinstance(c, AVFCallback) and c.avf), ())
        entry = {"step": state.global_step, **values, "frozen": list(frozen), "seconds": round(self.seconds, 3)}
        self.run.append_log(entry)
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def micro_batch(recipe: Recipe) -> int:
    """Examples in a forward pass of one process."""
    parts = recipe.gradient_accumulation_steps * PartialState().num_processes
    if recipe.batch_size % parts:
        raise VectorFitError(
            f"batch_size: got {recipe.batch_size}, expected a multiple of {parts} (gradient_accumulation_steps times "
            "processes)"
        )
    return int(recipe.batch_size // parts)


def total_steps(recipe: Recipe, examples: int) -> int:
    """The updates of a run on `examples` training examples. The last batch of an epoch may be smaller."""
    micro_batch(recipe)
    return max(1, math.ceil(recipe.epochs * math.ceil(examples / recipe.batch_size)))


def make(
    recipe: Recipe,
    seed: int,
    task: Task,
    trained: Trained,
    examples: Examples,
    folder: RunFolder,
    steps: int,
    *,
    shards: bool = False,
) -> tuple[TaskTrainer, Log]:
    """The Trainer of a run of `steps` updates, and its log. With `shards` any number of processes can resume it."""
    micro = micro_batch(recipe)
    arguments = TrainingArguments(
        str(folder.checkpoints_folder / ".trainer"),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=max(1, max(micro, 32) // recipe.num_beams),
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        weight_decay=0.0,
        optim="adamw_torch",
        lr_scheduler_type="linear",
        bf16=recipe.precision != "fp32",
        **({"gradient_checkpointing": True} if recipe.gradient_checkpointing else {}),
        seed=seed,
        logging_nan_inf_filter=False,
        dataloader_num_workers=WORKERS if has_accelerator() else 0,
        logging_steps=max(1, steps // LOGGED),
        save_strategy="steps",
        save_steps=math.ceil(steps / CHECKPOINTS),
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not has_accelerator(),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["start_positions", "end_positions"] if recipe.kind == "question_answering" else ["labels"],
        ddp_find_unused_parameters=False,
    )
    callbacks = callbacks_of(trained, recipe, seed, steps)
    log = Log(folder, callbacks)
    trainer = TaskTrainer(
        trained.wrapped[""],
        arguments,
        data_collator=task.collator,
        train_dataset=examples,
        callbacks=[*callbacks, log],
    )
    trainer.trained, trainer.run, trainer.group_by_length = trained, folder, recipe.group_by_length
    trainer.rates, trainer.run_shards = rates_of(recipe, trained), shards
    # Not to be wrapped in DDP. Before, Trainer would refuse to save: it cannot save such an optimizer, TaskTrainer can.
    trainer.is_distributed_loading_by_transformers = sharding.is_sharded(trained.wrapped[""])
    # Trainer assumes that every forward(**kwargs) averages over all tokens of an update. Most do not.
    trainer.model_accepts_loss_kwargs = task.averages_over_tokens
    trainer.remove_callback(PrinterCallback)
    return trainer, log


def train(trainer: TaskTrainer, log: Log, steps: int) -> None:
    """Trains until update `steps`, from the newest checkpoint if there is one."""
    checkpoints = {step: path for step, path in log.run.checkpoints().items() if _is_complete(path)}
    newest = max(checkpoints, default=0)
    if newest >= steps:
        # The run was stopped while it scored. Trainer would begin another epoch if the last one was not complete.
        trainer._load_from_checkpoint(str(checkpoints[newest]))
        log.resume_clock()
        return
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[newest]) if newest else None)
    finally:
        log.bar.close()


def _is_complete(checkpoint: Path) -> bool:
    """Whether the file that Trainer writes last is complete. A killed run of version 0.1.0 may have left a part."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
