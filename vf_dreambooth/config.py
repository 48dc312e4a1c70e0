"""The settings of a training. Everything about a setting is in its own `option(...)`."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError, avf_schedule
from vectorfit.freezing import TOP_K
from vf_training import methods

from .conflicts import freezes, freezing_conflict, prior_conflict
from .default_runs import free_folder
from .families import TEXT_ENCODERS
from .options import (
    EVERYTHING,
    above,
    at_least,
    decay,
    multiple_of,
    not_blank,
    not_with,
    one_of,
    only_with,
    option,
    printable,
    problems_of,
)
from .prompts import class_noun, default_prompts

PRIORS = ("class_images", "drift", "none")
SUBJECT, BASE, PRIOR, TRAINING = "subject", "base model", "prior preservation", "training"
AVF, OUTPUT, HUB = "adaptive vector freezing", "output", "hub"
AVF_DEPENDS_ON = ("avf", "method", "max_train_steps")


@dataclass(frozen=True)
class TrainConfig:
    """One training. `None` means "by the base model's preset" or "inferred"; `options.completed` fills these in.

    Raises:
        VectorFitError: values out of range or contradictory, all of them in one message.
    """

    instance_data_dir: str = option(
        "",
        "folder with three to ten photos of the subject, or a folder of such folders, one subject each (required); "
        "PHOTO.txt beside a photo is that photo's prompt",
        group=SUBJECT,
        flags=("--instance_dir", "--instance_data_dir"),
        checks=(not_blank("a folder with photos of the subject"),),
        shapes_result=False,
    )
    class_noun: str | None = option(
        None,
        "what the subject is, such as dog; by default from the folder's name",
        group=SUBJECT,
        checks=(printable(60),),
        infer=lambda config, _: config.noun() or None,
        depends_on=("instance_data_dir",),
    )
    token: str = option(
        "sks",
        "the rare word that will name the subject",
        group=SUBJECT,
        checks=(not_blank("a rare word such as sks"), printable(40)),
    )
    instance_prompt: str | None = option(
        None,
        "prompt of the photos; by default 'a photo of TOKEN NOUN'",
        group=SUBJECT,
        checks=(printable(1000),),
        infer=lambda config, _: config.default_prompts()[0],
        depends_on=("class_noun", "token"),
    )
    class_prompt: str | None = option(
        None,
        "prompt of the class images; by default 'a photo of a NOUN'",
        group=SUBJECT,
        checks=(printable(1000),),
        infer=lambda config, _: config.default_prompts()[1] or config.instance_prompt,
        depends_on=("class_noun",),
    )
    center_crop: bool = option(True, "train on the centre of each photo; otherwise on random squares", group=SUBJECT)
    random_flip: bool = option(False, "train on mirrored photos too", group=SUBJECT)

    base_model: str = option(
        "auto",
        "starter, a diffusers folder, a single-file checkpoint or a hub id; auto takes CompVis/stable-diffusion-v1-4 "
        "where there is an accelerator and starter where there is none",
        group=BASE,
        flags=("--base_model", "--pretrained_model_name_or_path"),
        infer=lambda _, at: at.base.name,
        shapes_result=False,
    )
    revision: str | None = option(None, "revision of a hub model", group=BASE, depends_on=("base_model",))
    variant: str | None = option(None, "weight files' variant, such as fp16", group=BASE, depends_on=("base_model",))
    resolution: int | None = option(
        None,
        "side of the training images in pixels",
        group=BASE,
        checks=(at_least(1), multiple_of(8)),
        infer=lambda _, at: at.base.preset.resolution,
        depends_on=("base_model",),
    )

    prior: str = option(
        "class_images",
        "what keeps the class as it is: images of the class that the base makes, or a penalty on drift (the squared "
        "norm of the weights' change), which needs no images",
        group=PRIOR,
        choices=PRIORS,
        conflict=prior_conflict,
    )
    prior_loss_weight: float = option(
        1.0, "weight of the class images' loss; the paper uses 0.5 to 1.0", group=PRIOR, checks=(at_least(0),)
    )
    drift_weight: float | None = option(
        None,
        "weight of the penalty on drift",
        group=PRIOR,
        checks=(at_least(0),),
        conflict=only_with("prior", "drift", because="--prior {prior} has no such penalty; give --prior drift"),
        infer=lambda config, at: at.base.preset.drift_weight if config.prior == "drift" else None,
        depends_on=("base_model", "prior"),
    )
    num_class_images: int | None = option(
        None,
        "class images to train with",
        group=PRIOR,
        checks=(at_least(1),),
        infer=lambda _, at: at.base.preset.num_class_images,
        depends_on=("base_model",),
    )
    class_data_dir: str | None = option(
        None,
        "your own class images, used as they are",
        group=PRIOR,
        conflict=only_with("prior", "class_images", because="--prior {prior} uses no class images; leave one out"),
        depends_on=("prior",),
        shapes_result=False,
    )
    sample_batch_size: int = option(
        8,
        "class images and previews generated at once; images of another batch size differ by rounding",
        group=PRIOR,
        checks=(at_least(1),),
        shapes_result=False,
    )

    method: str = option(
        "vectorfit",
        "what is trained: "
        + "; ".join(f"{name}: {methods.find(name).about}" for name in methods.names(methods.DREAMBOOTH)),
        group=TRAINING,
        choices=methods.names(methods.DREAMBOOTH),
    )
    max_train_steps: int | None = option(
        None,
        "optimizer updates",
        group=TRAINING,
        checks=(at_least(1),),
        infer=lambda _, at: at.base.preset.max_train_steps,
        depends_on=("base_model",),
    )
    train_batch_size: int = option(
        4,
        "photos per step and process; the same number of class images is added",
        group=TRAINING,
        checks=(at_least(1),),
    )
    gradient_accumulation_steps: int | None = option(
        None,
        "batches per update; by default as accelerate is configured, or 1",
        group=TRAINING,
        checks=(at_least(1),),
        infer=lambda _, at: at.accumulation,
    )
    learning_rate: float | None = option(
        None,
        "learning rate of sigma and bias deltas",
        group=TRAINING,
        rate_of=EVERYTHING,
        checks=(above(0),),
        infer=lambda config, at: methods.find(config.method).rate(
            at.base.preset.rates_for, at.base.preset.learning_rate
        ),
        depends_on=("base_model", "method"),
    )
    text_encoder_lr: float | None = option(
        None,
        "the text encoder's own learning rate; by default --learning_rate",
        group=TRAINING,
        rate_of=TEXT_ENCODERS,
        checks=(above(0),),
        conflict=only_with(
            "train_text_encoder", True, because="the text encoder is not trained; leave out --no-train_text_encoder"
        ),
        depends_on=("train_text_encoder",),
    )
    lr_scheduler: str = option(
        "constant",
        "how the learning rate changes during training",
        group=TRAINING,
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    lr_warmup_steps: int = option(
        0,
        "updates of warm-up",
        group=TRAINING,
        checks=(at_least(0),),
        conflict=not_with("lr_scheduler", "constant", "the constant schedule has no warm-up; give another one"),
        depends_on=("lr_scheduler",),
    )
    train_text_encoder: bool = option(True, "adapt the text encoder too", group=TRAINING)
    snr_gamma: float | None = option(
        None,
        "Min-SNR weighting of the loss with this gamma (5.0 is usual); by default none",
        group=TRAINING,
        checks=(above(0),),
    )
    use_ema: bool = option(False, "keep a moving average of the vectors and save that", group=TRAINING)
    ema_decay: float | None = option(
        None,
        "decay of the moving average; by default 0.99",
        group=TRAINING,
        checks=(decay,),
        conflict=only_with("use_ema", True, because="no moving average is kept; give --use_ema"),
        infer=lambda config, _: 0.99 if config.use_ema else None,
        depends_on=("use_ema",),
    )
    adam_beta1: float = option(0.9, "AdamW beta 1", group=TRAINING, checks=(decay,))
    adam_beta2: float = option(0.999, "AdamW beta 2", group=TRAINING, checks=(decay,))
    adam_weight_decay: float = option(0.0, "AdamW weight decay", group=TRAINING, checks=(at_least(0),))
    adam_epsilon: float = option(1e-8, "AdamW epsilon", group=TRAINING, checks=(above(0),))
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", group=TRAINING, checks=(above(0),))
    mixed_precision: str = option(
        "auto",
        "precision of the forward pass; vectors are always float32; auto takes fp16 or bf16 as accelerate is "
        "configured, otherwise bf16 where the hardware computes in it",
        group=TRAINING,
        choices=("auto", "no", "fp16", "bf16"),
        infer=lambda _, at: at.mixed_precision,
    )
    gradient_checkpointing: bool = option(False, "less memory, more time", group=TRAINING, shapes_result=False)
    compile: bool = option(
        False,
        "compile the model with torch.compile: the first step takes a minute or more, the others less time",
        group=TRAINING,
        shapes_result=False,
    )
    memory: int | None = option(
        None,
        "fit a card of 24, 16, 12 or 8 GB: splits batches by accumulation, which changes results by rounding only",
        group=TRAINING,
        checks=(one_of(24, 16, 12, 8),),
        shapes_result=False,
    )
    seed: int = option(0, "seed of everything random", group=TRAINING, checks=(at_least(0),))

    avf: bool = option(True, "Adaptive Vector Freezing", group=AVF)
    avf_first_step: int | None = option(
        None,
        "t_i: first freezing; by default 35 % of the steps",
        group=AVF,
        checks=(at_least(1),),
        conflict=freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).first_step if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_every: int | None = option(
        None,
        "t_f: steps between freezings; by default 3 % of the steps",
        group=AVF,
        checks=(at_least(1),),
        conflict=freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).every if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_num_freezes: int | None = option(
        None,
        "n_f: number of freezings; by default 10",
        group=AVF,
        checks=(at_least(0),),
        conflict=freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).num_freezes if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_top_k: int | None = option(
        None,
        f"k: vectors frozen at a time; by default {TOP_K}",
        group=AVF,
        checks=(at_least(0),),
        conflict=freezing_conflict,
        infer=lambda config, _: TOP_K if config.freezes else None,
        depends_on=("avf", "method"),
    )

    output_dir: str | None = option(
        None,
        "run folder; by default runs/FOLDER, numbered where that exists",
        group=OUTPUT,
        infer=lambda config, _: str(free_folder(Path("runs") / Path(config.instance_data_dir).resolve().name)),
        shapes_result=False,
    )
    checkpointing_steps: int | None = option(
        None,
        "steps between checkpoints and sample grids; by default a quarter of the steps",
        group=OUTPUT,
        checks=(at_least(1),),
        infer=lambda config, _: max(1, math.ceil(config.max_train_steps / 4)),
        depends_on=("max_train_steps",),
        shapes_result=False,
    )
    checkpoints_total_limit: int = option(
        3, "how many of the newest checkpoints are kept", group=OUTPUT, checks=(at_least(1),), shapes_result=False
    )
    num_validation_images: int = option(
        4,
        "images per prompt in a sample grid; with 0 there are no grids",
        group=OUTPUT,
        checks=(at_least(0),),
        shapes_result=False,
    )
    validation_prompt: str | None = option(
        None, "one more prompt for the sample grids", group=OUTPUT, shapes_result=False
    )
    report_to: str | None = option(
        None, "experiment tracker", group=OUTPUT, choices=("tensorboard",), shapes_result=False
    )

    push_to_hub: bool = option(False, "upload the finished run's card and subject file", group=HUB, shapes_result=False)
    hub_model_id: str | None = option(
        None,
        "repository to upload to; by default the run folder's name",
        group=HUB,
        conflict=only_with("push_to_hub", True, because="nothing is uploaded without --push_to_hub"),
        depends_on=("push_to_hub",),
        shapes_result=False,
    )

    def __post_init__(self) -> None:
        if problems := problems_of(TrainConfig, self.as_dict()):
            raise VectorFitError("\n".join(problems.values()))

    @property
    def with_class_images(self) -> bool:
        return self.prior == "class_images"

    @property
    def effective_batch_size(self) -> int:
        """Photos of one update on one process."""
        return self.train_batch_size * (self.gradient_accumulation_steps or 1)

    @property
    def trigger(self) -> str:
        """The words that name the subject: token and noun where the prompt has them, otherwise the whole prompt."""
        words, prompt = f"{self.token} {self.class_noun}", str(self.instance_prompt)
        return words if words in prompt else prompt

    def noun(self) -> str:
        """What the subject is, as given or from its folder's name; "" where the given prompts are enough.

        Raises:
            VectorFitError: the folder's name does not say.
        """
        both_given = self.instance_prompt and (self.class_prompt or not self.with_class_images)
        return self.class_noun or ("" if both_given else class_noun(Path(self.instance_data_dir).resolve().name))

    def default_prompts(self) -> tuple[str, str]:
        """The prompts of photos and of class images that the noun gives, empty where there is no noun."""
        noun = self.noun()
        return default_prompts(self.token, noun) if noun else ("", "")

    @property
    def freezes(self) -> bool:
        return freezes(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def shaping(self, num_processes: int) -> dict[str, Any]:
        """The settings that the trained vectors depend on; what a batch is split into is not one of them."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["shapes_result"]}
        del kept["gradient_accumulation_steps"]
        return {**kept, "train_batch_size": self.effective_batch_size * num_processes}
