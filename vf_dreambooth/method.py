"""VectorFit as the training sees it: the vectors, their optimizer and schedule, and the freezing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

import vectorfit as vf

from .config import TrainConfig


@dataclass
class Method:
    """What is trained and how."""

    plan: vf.Plan
    vectors: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    avf: vf.AdaptiveVectorFreezing | None
    ema: EMAModel | None

    def freeze(self, step: int) -> tuple[str, ...]:
        """The vectors frozen for this update; their gradients are gone."""
        return self.avf.step(step) if self.avf else ()

    def after_update(self) -> None:
        self.schedule.step()
        if self.ema:
            self.ema.step(self.vectors.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the vectors are their moving averages, where these are kept."""
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


def parameter_groups(config: TrainConfig, vectors: Mapping[str, nn.Parameter]) -> list[dict]:
    """The vectors by learning rate: the text encoder's have their own where it is given."""
    if config.text_encoder_lr is None:
        return [{"params": list(vectors.values())}]
    text = {name for name in vectors if name.startswith("text_encoder.")}
    return [
        {"params": [v for name, v in vectors.items() if name not in text]},
        {"params": [v for name, v in vectors.items() if name in text], "lr": config.text_encoder_lr},
    ]


def build(config: TrainConfig, models: Mapping[str, nn.Module]) -> Method:
    """Puts VectorFit layers into `models` and builds what trains them.

    Raises:
        VectorFitError: a layer cannot be factorised, or the freezing would leave nothing to train.
    """
    plan = vf.inject(models)
    vectors = vf.vector_parameters(models)
    optimizer = torch.optim.AdamW(
        parameter_groups(config, vectors),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    avf = None
    if config.avf:
        avf = vf.AdaptiveVectorFreezing(
            models,
            first_step=config.avf_first_step,
            every=config.avf_every,
            num_freezes=config.avf_num_freezes,
            top_k=config.avf_top_k,
        )
    for model in models.values():
        if config.gradient_checkpointing:
            # diffusers' name, then transformers' name
            names = ("enable_gradient_checkpointing", "activation_checkpointing_enable")
            next(getattr(model, name) for name in names if hasattr(model, name))()
        model.train()
    ema = EMAModel(vectors.values(), decay=config.ema_decay) if config.use_ema else None
    return Method(plan, vectors, optimizer, schedule, avf, ema)
