"""Builds the optimizer, learning rates (and their log keys), freezing, penalty and moving average."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from prodigyopt import Prodigy
from torch import nn

import vectorfit as vf
from vectorfit.modules import named_modules
from vf_training import methods
from vf_training.options import EVERYTHING

from .config import TrainConfig
from .residency import checkpointing, store_low

OPTIMIZERS = {"adamw": torch.optim.AdamW, "prodigy": Prodigy}


@dataclass(frozen=True)
class Rate:
    """A learning rate: of what ("text_encoder", say; "" is everything else), the pattern of its names, its value."""

    of: str
    pattern: str
    value: float
    given: bool = True  # by a setting of its own; otherwise it follows from others, and may be of nothing

    @property
    def log_key(self) -> str:
        return f"lr_{self.of}" if self.of else "lr"


@dataclass
class Optimization:
    """A method in the models, and what trains it. `vectors` are the trained parameters by name, whatever the method."""

    trained: methods.Trained
    vectors: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    log_keys: tuple[str, ...]  # under which the log has the rates of the optimizer's parameter groups
    schedule: torch.optim.lr_scheduler.LRScheduler
    avf: vf.AdaptiveVectorFreezing | None
    ema: EMAModel | None
    penalty: Callable[[], torch.Tensor] | None  # added to the loss

    @property
    def trains_vectors(self) -> bool:
        """Whether the method writes a subject file of vectors. LoRA and full fine-tuning write other files."""
        return self.trained.method.trains_vectors

    def rates(self) -> dict[str, float]:
        """The learning rate of every parameter group, by its key in the log."""
        # Prodigy's rate is a factor of the one that it finds, d.
        factors = [group.get("d", 1.0) for group in self.optimizer.param_groups]
        rates = [rate * d for rate, d in zip(self.schedule.get_last_lr(), factors, strict=True)]
        return dict(zip(self.log_keys, rates, strict=True))

    def freeze(self, step: int) -> tuple[str, ...]:
        """Freezes vectors for this update, removes their gradients, and returns their names."""
        return self.avf.step(step) if self.avf else ()

    def after_update(self, skipped: bool = False) -> None:
        """Moves the learning rate and the average on, unless fp16's scaler has `skipped` the update."""
        if skipped:
            return
        self.schedule.step()
        if self.ema:
            self.ema.step(self.vectors.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the vectors are their moving averages, if the run keeps these."""
        if self.ema is None:
            yield
            return
        parameters = list(self.vectors.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)


def rates_of(config: TrainConfig) -> list[Rate]:
    """The given learning rates: special ones in the order of their settings, then the one of everything else."""
    declared = [(item.name, item.metadata["rate_of"], getattr(config, item.name)) for item in fields(config)]
    given = [
        Rate("" if pattern == EVERYTHING else name.removesuffix("_lr"), pattern, value)
        for name, pattern, value in declared
        if pattern and value is not None
    ]
    of = {rate.of: rate for rate in given}
    if "text_encoder" in of and "bias" in of:
        # The text encoder's biases keep their share, so that --text_encoder_lr with the value of --learning_rate
        # changes nothing.
        text = of["text_encoder"]
        share = of["bias"].value / of[""].value
        given.insert(0, Rate("text_encoder_bias", f"{text.pattern}.bias", text.value * share, given=False))
    return sorted(given, key=lambda rate: rate.pattern == EVERYTHING)


def _freezing(
    config: TrainConfig, models: Mapping[str, nn.Module], rates: Mapping[str, float]
) -> vf.AdaptiveVectorFreezing | None:
    freezing = methods.find(config.method).freezing
    if freezing is None or not config.avf:
        return None
    return freezing(
        models,
        seed=config.seed,
        first_step=config.avf_first_step,
        every=config.avf_every,
        num_freezes=config.avf_num_freezes,
        top_k=config.avf_top_k,
        rates=rates if config.avf_strength == "relative" else None,
    )


def _fusing(config: TrainConfig) -> dict[str, bool]:
    """The argument with which AdamW updates all vectors in one call, where it can; Prodigy cannot.

    Not in fp16: of a fused update accelerate cannot tell if the scaler skipped it.
    """
    return {"fused": True} if config.optimizer == "adamw" and config.mixed_precision != "fp16" else {}


def build(config: TrainConfig, models: Mapping[str, nn.Module], unreached: Sequence[nn.Module] = ()) -> Optimization:
    """Puts the method into `models` and builds the optimizer and all that belongs to it.

    `unreached` are the modules that no gradient reaches: they are left as they are.

    Raises:
        VectorFitError: a layer cannot be factorised, or the freezing would leave nothing to train.
    """
    exclude = tuple(path for path, module in named_modules(models) if any(module is left for left in unreached))
    options = methods.Options(exclude=exclude, seed=config.seed, gaussian_lora=True)
    return around(methods.put_in(config.method, models, options), config, models)


def around(trained: methods.Trained, config: TrainConfig, models: Mapping[str, nn.Module]) -> Optimization:
    """Builds the optimizer, and all that belongs to it, of what a method has put into `models`.

    Raises:
        VectorFitError: the freezing would leave nothing to train.
    """
    vectors = trained.parameters
    rates = [rate for rate in rates_of(config) if rate.given or any(fnmatchcase(n, rate.pattern) for n in vectors)]
    *special, main = vf.parameter_groups(vectors, {rate.pattern: rate.value for rate in rates})
    groups = [main, *special]  # the order in which checkpoints of version 0.1.0 have them
    optimizer = OPTIMIZERS[config.optimizer](
        groups,
        lr=config.learning_rate,  # the polynomial schedule reads it, though every group has its own
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        **_fusing(config),
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    if config.gradient_checkpointing:
        checkpointing(models, on=True)
    for model in models.values():
        model.train()
    store_low(models, config.mixed_precision)
    ema = EMAModel(vectors.values(), decay=config.ema_decay) if config.use_ema else None
    penalty = trained.method.penalty
    penalty_of_models = None if penalty is None else (lambda: penalty(models))
    keys = {rate.pattern: rate.log_key for rate in rates}
    log_keys = tuple(keys[group["name"]] for group in groups)
    rate_of = {id(vector): group["lr"] for group in groups for vector in group["params"]}
    freezing = _freezing(config, models, {name: rate_of[id(vector)] for name, vector in vectors.items()})
    return Optimization(trained, vectors, optimizer, log_keys, schedule, freezing, ema, penalty_of_models)
