"""How the vectors are trained: optimizer, learning rates, freezing, penalty and moving average."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

import vectorfit as vf
from vf_training import methods

from .config import TrainConfig
from .residency import checkpointing, store_low


@dataclass
class Optimization:
    """A method in the models, and what trains it. `vectors` are the trained parameters by name, whatever the method."""

    trained: methods.Trained
    vectors: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    group_names: tuple[str, ...]  # of the optimizer's parameter groups; the first has none
    schedule: torch.optim.lr_scheduler.LRScheduler
    avf: vf.AdaptiveVectorFreezing | None
    ema: EMAModel | None
    penalty: Callable[[], torch.Tensor] | None  # added to the loss

    @property
    def trains_vectors(self) -> bool:
        """Whether the method writes a subject file of vectors. LoRA and full fine-tuning write other files."""
        return self.trained.method.trains_vectors

    def rates(self) -> dict[str, float]:
        """The learning rate of every parameter group, as the log names it: "lr" of the first, "lr_NAME" of others."""
        names = [f"lr_{name}" if name else "lr" for name in self.group_names]
        return dict(zip(names, self.schedule.get_last_lr(), strict=True))

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


def parameter_groups(config: TrainConfig, vectors: Mapping[str, nn.Parameter]) -> dict[str, dict]:
    """The optimizer's groups by name. The text encoder has its own group if it has its own learning rate."""
    if config.text_encoder_lr is None:
        return {"": {"params": list(vectors.values())}}
    text = {name for name in vectors if name.startswith("text_encoder.")}
    return {
        "": {"params": [v for name, v in vectors.items() if name not in text]},
        "text_encoder": {"params": [v for name, v in vectors.items() if name in text], "lr": config.text_encoder_lr},
    }


def _freezing(config: TrainConfig, models: Mapping[str, nn.Module]) -> vf.AdaptiveVectorFreezing | None:
    freezing = methods.find(config.method).freezing
    if freezing is None or not config.avf:
        return None
    return freezing(
        models,
        config.seed,
        first_step=config.avf_first_step,
        every=config.avf_every,
        num_freezes=config.avf_num_freezes,
        top_k=config.avf_top_k,
    )


def build(config: TrainConfig, models: Mapping[str, nn.Module]) -> Optimization:
    """Puts the method into `models` and builds the optimizer and all that belongs to it.

    Raises:
        VectorFitError: a layer cannot be factorised, or the freezing would leave nothing to train.
    """
    trained = methods.put_in(config.method, models, methods.Options(seed=config.seed, gaussian_lora=True))
    vectors = trained.parameters
    groups = parameter_groups(config, vectors)
    optimizer = torch.optim.AdamW(
        list(groups.values()),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=all(vector.is_cuda for vector in vectors.values()),  # a few kernels for hundreds of vectors
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    if config.gradient_checkpointing:
        checkpointing(models, on=True)
    for model in models.values():
        model.train()
    store_low(models, config.mixed_precision)
    ema = EMAModel(vectors.values(), decay=config.ema_decay) if config.use_ema else None
    penalty = trained.method.penalty
    penalty_of_models = None if penalty is None else (lambda: penalty(models))
    return Optimization(
        trained, vectors, optimizer, tuple(groups), schedule, _freezing(config, models), ema, penalty_of_models
    )
