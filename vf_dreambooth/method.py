"""VectorFit as the training sees it: the vectors, their optimizer and schedule, and the freezing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
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

    def freeze(self, step: int) -> tuple[str, ...]:
        """The vectors frozen for this update; their gradients are gone."""
        return self.avf.step(step) if self.avf else ()


def build(config: TrainConfig, models: Mapping[str, nn.Module]) -> Method:
    """Puts VectorFit layers into `models` and builds what trains them.

    Raises:
        VectorFitError: a layer cannot be factorised, or the freezing would leave nothing to train.
    """
    plan = vf.inject(models)
    vectors = vf.vector_parameters(models)
    optimizer = torch.optim.AdamW(
        vectors.values(),
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
    return Method(plan, vectors, optimizer, schedule, avf)
