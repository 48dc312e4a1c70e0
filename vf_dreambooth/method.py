"""The method as the training sees it: what is trained, its optimizer and schedule, its freezing, how it is saved."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

import vectorfit as vf
from vectorfit.baselines import Baseline
from vectorfit.regularizers import RandomVectorFreezing, l1, set_sigma_dropout

from .config import BASELINES, TrainConfig

# method -> what the core is configured to train
CONFIGURED = {
    **{name: vf.VectorFitConfig(variant=name) for name in ("vectorfit", "no_avf", "sigma", "sigma_a", "sigma_a+b")},
    "svft": vf.VectorFitConfig(variant="sigma", pattern="banded", pattern_width=2),
    **{name: vf.VectorFitConfig() for name in ("random_freezing", "l1", "sigma_dropout")},
}
# The paper compares AVF with both and gives no values; these are guesses that no sweep has looked at.
SIGMA_DROPOUT = 0.05
L1_WEIGHT = 1e-5
FREEZING = {"vectorfit": vf.AdaptiveVectorFreezing, "random_freezing": RandomVectorFreezing}


@dataclass
class Method:
    """What is trained and how. `vectors` are the trained parameters by name, whatever the method."""

    table: str  # what is trained, in full
    summary: str  # in a line
    vectors: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    avf: vf.AdaptiveVectorFreezing | None
    ema: EMAModel | None
    save: Callable[..., None]  # (path, base_model=, base_revision=, metadata=)
    penalty: Callable[[], torch.Tensor] | None = None  # added to the loss
    baseline: str | None = None

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


def _trained(config: TrainConfig, models: Mapping[str, nn.Module]) -> tuple[str, str, dict, Callable[..., None]]:
    """Puts the method's layers into `models`: its table and summary, what it trains, and how it is saved."""
    if config.method in BASELINES:
        baseline = Baseline(models, config.method, seed=config.seed)
        return baseline.summary(), baseline.summary(), baseline.parameters, baseline.save
    plan = vf.inject(models, CONFIGURED[config.method])
    if config.method == "sigma_dropout":
        set_sigma_dropout(models, SIGMA_DROPOUT)
    return str(plan), plan.summary(), vf.vector_parameters(models), partial(vf.save_vectors, models)


def _freezing(config: TrainConfig, models: Mapping[str, nn.Module]) -> vf.AdaptiveVectorFreezing | None:
    if not config.freezes:
        return None
    return FREEZING[config.method](
        models,
        first_step=config.avf_first_step,
        every=config.avf_every,
        num_freezes=config.avf_num_freezes,
        top_k=config.avf_top_k,
    )


def build(config: TrainConfig, models: Mapping[str, nn.Module]) -> Method:
    """Puts the method's layers into `models` and builds what trains them.

    Raises:
        VectorFitError: a layer cannot be factorised, or the freezing would leave nothing to train.
    """
    table, summary, vectors, save = _trained(config, models)
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
    avf = _freezing(config, models)
    for model in models.values():
        if config.gradient_checkpointing:
            # diffusers' name, then transformers' name
            names = ("enable_gradient_checkpointing", "activation_checkpointing_enable")
            next(getattr(model, name) for name in names if hasattr(model, name))()
        model.train()
    ema = EMAModel(vectors.values(), decay=config.ema_decay) if config.use_ema else None
    penalty = (lambda: L1_WEIGHT * l1(models)) if config.method == "l1" else None
    baseline = config.method if config.method in BASELINES else None
    return Method(table, summary, vectors, optimizer, schedule, avf, ema, save, penalty, baseline)
