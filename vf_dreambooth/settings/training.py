"""What is trained, how fast and how precisely."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vectorfit import VectorFitError
from vf_dreambooth.presets import TEXT_ENCODERS, of_known_bases
from vf_training import methods
from vf_training.options import EVERYTHING, above, at_least, decay, first_of, not_with, one_of, only_with, option

GROUP = "training"
BIASES = "*.bias"  # the pattern of their names
TUNED, PAPER = "tuned", "paper"  # recipes
ONE_RATE = not_with("optimizer", "prodigy", "prodigy finds one rate for everything; give --optimizer adamw")


def _bias_conflict(values: Mapping[str, Any]) -> str:
    method = methods.METHODS.get(values["method"])  # None if the name is wrong, which is reported separately
    trains_none = method is not None and not method.trains_biases
    return f"--method {values['method']} trains no bias vectors; leave it out" if trains_none else ""


def _preset_bias_lr(config: Any, at: Any) -> float | None:
    """The biases' rate by our recipe, where biases are trained and no rate for everything is given.

    Raises:
        VectorFitError: our recipe is asked for, and there is none for the base.
    """
    given = config.learning_rate is not None or config.optimizer == "prodigy"
    if config.recipe != TUNED or given or not methods.find(config.method).trains_biases:
        return None
    if at.base.preset.bias_lr is None:
        raise VectorFitError(
            f"--recipe: {TUNED} has no rates for {at.base.name}, no sweep of ours found them; give --recipe "
            f"{PAPER}, or --learning_rate and --bias_lr"
        )
    return at.base.preset.bias_lr


def _preset_rate(config: Any, at: Any) -> float:
    """The method's rate on the base, by the recipe."""
    preset = at.base.preset
    own = preset.one_rate if config.recipe == PAPER and preset.one_rate else preset.learning_rate
    return 1.0 if config.optimizer == "prodigy" else methods.find(config.method).rate(preset.rates_for, own)


@dataclass(frozen=True)
class TrainingSettings:
    """The flags under "training"."""

    method: str = option(
        "vectorfit",
        "what is trained: "
        + "; ".join(f"{name}: {methods.find(name).about}" for name in methods.names(methods.DREAMBOOTH)),
        group=GROUP,
        choices=methods.names(methods.DREAMBOOTH),
    )
    max_train_steps: int | None = option(
        None,
        "optimizer updates",
        group=GROUP,
        checks=(at_least(1),),
        infer=lambda _, at: at.base.preset.max_train_steps,
        inferred=of_known_bases("max_train_steps"),
        depends_on=("base_model",),
    )
    train_batch_size: int = option(
        4,
        "photos per step and process; the same number of class images is added",
        group=GROUP,
        checks=(at_least(1),),
    )
    gradient_accumulation_steps: int | None = option(
        None,
        "batches per update; by default as accelerate is configured, or 1",
        group=GROUP,
        checks=(at_least(1),),
        infer=lambda _, at: at.accumulation,
    )
    optimizer: str = option(
        "adamw",
        "what makes the updates; prodigy finds the rate by itself: for a base whose rate nobody knows",
        group=GROUP,
        choices=("adamw", "prodigy"),
    )
    recipe: str = option(
        "auto",
        "whose rates: tuned, ours for sigma and biases apart; paper, one rate for both; auto is tuned on bases where a "
        "sweep of ours found the rates, otherwise paper",
        group=GROUP,
        choices=("auto", TUNED, PAPER),
        infer=lambda _, at: PAPER if at.base.preset.bias_lr is None else TUNED,
        depends_on=("base_model",),
        shapes_result=False,  # the rates do
    )
    text_encoder_lr: float | None = option(
        None,
        "the text encoder's learning rate in place of --learning_rate; its biases keep their share of it",
        group=GROUP,
        rate_of=TEXT_ENCODERS,
        checks=(above(0),),
        conflict=first_of(
            only_with(
                "train_text_encoder",
                True,
                None,
                because="the text encoder is not trained; leave out --no-train_text_encoder",
            ),
            ONE_RATE,
        ),
        depends_on=("train_text_encoder",),
    )
    bias_lr: float | None = option(
        None,
        "the biases' own learning rate; by default --learning_rate where that is given, otherwise the base's preset",
        group=GROUP,
        rate_of=BIASES,
        checks=(above(0),),
        conflict=first_of(_bias_conflict, ONE_RATE),
        infer=_preset_bias_lr,
        depends_on=("base_model", "method", "optimizer", "learning_rate", "recipe"),
    )
    learning_rate: float | None = option(
        None,
        "learning rate of sigma, and of everything without a rate of its own; alone it is the paper's one rate; of "
        "prodigy a factor of the rate that it finds, 1 by default",
        group=GROUP,
        rate_of=EVERYTHING,
        checks=(above(0),),
        infer=_preset_rate,
        inferred=of_known_bases("learning_rate"),
        depends_on=("base_model", "method", "optimizer", "recipe"),
    )
    lr_scheduler: str = option(
        "constant",
        "how the learning rate changes during training",
        group=GROUP,
        choices=("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    )
    lr_num_cycles: int = option(
        1,
        "restarts of cosine_with_restarts",
        group=GROUP,
        checks=(at_least(1),),
        conflict=only_with(
            "lr_scheduler", "cosine_with_restarts", because="--lr_scheduler {lr_scheduler} has no cycles"
        ),
        depends_on=("lr_scheduler",),
    )
    lr_power: float = option(
        1.0,
        "power of polynomial: above 1 the rate falls early, below 1 late",
        group=GROUP,
        checks=(above(0),),
        conflict=only_with("lr_scheduler", "polynomial", because="--lr_scheduler {lr_scheduler} has no power"),
        depends_on=("lr_scheduler",),
    )
    lr_warmup_steps: int = option(
        0,
        "updates of warm-up",
        group=GROUP,
        checks=(at_least(0),),
        conflict=not_with("lr_scheduler", "constant", "the constant schedule has no warm-up; give another one"),
        depends_on=("lr_scheduler",),
    )
    train_text_encoder: bool | None = option(
        None,
        "adapt the text encoders too; by default where the base reads prompts by CLIP alone",
        group=GROUP,
        infer=lambda config, at: config.text_encoder_lr is not None or at.base.preset.train_text_encoder,
        depends_on=("base_model",),
    )
    snr_gamma: float | None = option(
        None,
        "Min-SNR weighting of the loss with this gamma (5.0 is usual); by default none",
        group=GROUP,
        checks=(above(0),),
    )
    offset_noise: float = option(
        0.0,
        "noise added to the brightness of whole samples (0.1 is usual), for subjects that are very dark or very bright",
        group=GROUP,
        flags=("--offset_noise", "--noise_offset"),
        checks=(at_least(0),),
    )
    loss_type: str = option(
        "l2",
        "how errors count: squared, or huber, which forgives large ones: for photos with watermarks or compression",
        group=GROUP,
        choices=("l2", "huber"),
    )
    huber_c: float | None = option(
        None,
        "where huber turns from squared to linear; by default 0.1",
        group=GROUP,
        checks=(above(0),),
        conflict=only_with("loss_type", "huber", because="--loss_type {loss_type} has no such place; give huber"),
        infer=lambda config, _: 0.1 if config.loss_type == "huber" else None,
        depends_on=("loss_type",),
    )
    use_ema: bool = option(False, "keep a moving average of the vectors and save that", group=GROUP)
    ema_decay: float | None = option(
        None,
        "decay of the moving average; by default 0.99",
        group=GROUP,
        checks=(decay,),
        conflict=only_with("use_ema", True, because="no moving average is kept; give --use_ema"),
        infer=lambda config, _: 0.99 if config.use_ema else None,
        depends_on=("use_ema",),
    )
    adam_beta1: float = option(0.9, "beta 1 of AdamW or Prodigy", group=GROUP, checks=(decay,))
    adam_beta2: float = option(0.999, "beta 2 of AdamW or Prodigy", group=GROUP, checks=(decay,))
    adam_weight_decay: float = option(0.0, "weight decay, decoupled", group=GROUP, checks=(at_least(0),))
    adam_epsilon: float = option(1e-8, "epsilon of AdamW or Prodigy", group=GROUP, checks=(above(0),))
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", group=GROUP, checks=(above(0),))
    mixed_precision: str = option(
        "auto",
        "precision of the forward pass; vectors are always float32; auto takes fp16 or bf16 as accelerate is "
        "configured, otherwise bf16 where the hardware computes in it",
        group=GROUP,
        choices=("auto", "no", "fp16", "bf16"),
        infer=lambda _, at: at.mixed_precision,
    )
    gradient_checkpointing: bool = option(False, "less memory, more time", group=GROUP, shapes_result=False)
    compile: bool = option(
        False,
        "compile the model with torch.compile: the first step takes a minute or more, the others less time",
        group=GROUP,
        shapes_result=False,
    )
    memory: int | None = option(
        None,
        "fit a card of 24, 16, 12 or 8 GB: splits batches by accumulation, which changes results by rounding only",
        group=GROUP,
        checks=(one_of(24, 16, 12, 8),),
        shapes_result=False,
    )
    together: int | None = option(
        None,
        "of a folder of subject folders, train so many subjects in one batch: each with its own vectors, optimizer, "
        "freezing and run folder, as if it were trained alone; by default one after the other",
        group=GROUP,
        checks=(at_least(1),),
        shapes_result=False,
    )
    seed: int = option(0, "seed of everything random", group=GROUP, checks=(at_least(0),))
