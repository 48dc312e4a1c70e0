"""The settings of a training: each default and each help text is written once, here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError, avf_schedule
from vf_training import methods

from .base_models import BaseModel
from .prompts import class_noun, default_prompts

PRIORS = ("class_images", "drift", "none")
WORDS = {"token": 40, "class_noun": 60, "instance_prompt": 1000, "class_prompt": 1000}  # their most characters
SUBJECT, BASE, PRIOR, TRAINING = "subject", "base model", "prior preservation", "training"
AVF, OUTPUT, HUB = "adaptive vector freezing", "output", "hub"


def option(
    default: Any,
    text: str,
    *,
    group: str,
    flags: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    shapes_result: bool = True,
) -> Any:
    """A setting; `flags` are its flags where they are not just its own name.

    `shapes_result` says whether the trained vectors depend on its value as such. Those settings are kept in the subject
    file and must stay when a run is resumed; places and reports need not.
    """
    return field(
        default=default,
        metadata={"help": text, "group": group, "flags": flags, "choices": choices, "shapes_result": shapes_result},
    )


@dataclass(frozen=True)
class TrainConfig:
    """One training. `None` means "by the base model's preset" or "inferred"; `completed` fills these in.

    Raises:
        VectorFitError: values out of range or contradictory, all of them in one message.
    """

    instance_data_dir: str = option(
        "",
        "folder with three to ten photos of the subject, or a folder of such folders, one subject each (required); "
        "PHOTO.txt beside a photo is that photo's prompt",
        group=SUBJECT,
        flags=("--instance_dir", "--instance_data_dir"),
        shapes_result=False,
    )
    class_noun: str | None = option(
        None, "what the subject is, such as dog; by default from the folder's name", group=SUBJECT
    )
    token: str = option("sks", "the rare word that will name the subject", group=SUBJECT)
    instance_prompt: str | None = option(
        None, "prompt of the photos; by default 'a photo of TOKEN NOUN'", group=SUBJECT
    )
    class_prompt: str | None = option(None, "prompt of the class images; by default 'a photo of a NOUN'", group=SUBJECT)
    center_crop: bool = option(True, "train on the centre of each photo; otherwise on random squares", group=SUBJECT)
    random_flip: bool = option(False, "train on mirrored photos too", group=SUBJECT)

    base_model: str = option(
        "auto",
        "starter, a diffusers folder, a single-file checkpoint or a hub id; auto takes CompVis/stable-diffusion-v1-4 "
        "where there is an accelerator and starter where there is none",
        group=BASE,
        flags=("--base_model", "--pretrained_model_name_or_path"),
        shapes_result=False,
    )
    revision: str | None = option(None, "revision of a hub model", group=BASE)
    variant: str | None = option(None, "weight files' variant, such as fp16", group=BASE)
    resolution: int | None = option(None, "side of the training images in pixels", group=BASE)

    prior: str = option(
        "class_images",
        "how the class is kept: by pictures that the base makes of it, or by a penalty on drift (the squared norm of "
        "the weights' change), which needs no pictures",
        group=PRIOR,
        choices=PRIORS,
    )
    prior_loss_weight: float = option(1.0, "weight of the class images' loss; the paper uses 0.5 to 1.0", group=PRIOR)
    drift_weight: float | None = option(None, "weight of the penalty on drift", group=PRIOR)
    num_class_images: int | None = option(None, "class images to train with", group=PRIOR)
    class_data_dir: str | None = option(
        None, "your own class images, used as they are", group=PRIOR, shapes_result=False
    )
    sample_batch_size: int = option(
        8,
        "class images and previews sampled at once; another number rounds otherwise",
        group=PRIOR,
        shapes_result=False,
    )

    method: str = option(
        "vectorfit",
        "what is trained: "
        + "; ".join(f"{name}: {methods.find(name).about}" for name in methods.names(methods.DREAMBOOTH)),
        group=TRAINING,
        choices=methods.names(methods.DREAMBOOTH),
    )
    max_train_steps: int | None = option(None, "optimizer updates", group=TRAINING)
    train_batch_size: int = option(4, "photos per step and process; as many class images come on top", group=TRAINING)
    gradient_accumulation_steps: int | None = option(
        None, "batches per update; by default as accelerate is configured, or 1", group=TRAINING
    )
    learning_rate: float | None = option(None, "learning rate of sigma and bias deltas", group=TRAINING)
    text_encoder_lr: float | None = option(
        None, "the text encoder's own learning rate; by default --learning_rate", group=TRAINING
    )
    lr_scheduler: str = option(
        "constant",
        "course of the rate",
        group=TRAINING,
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    lr_warmup_steps: int = option(0, "updates of warm-up", group=TRAINING)
    train_text_encoder: bool = option(True, "adapt the text encoder too", group=TRAINING)
    snr_gamma: float | None = option(
        None, "Min-SNR weighting of the loss with this gamma (5.0 is usual); by default none", group=TRAINING
    )
    use_ema: bool = option(False, "keep a moving average of the vectors and save that", group=TRAINING)
    ema_decay: float | None = option(None, "decay of the moving average; by default 0.99", group=TRAINING)
    adam_beta1: float = option(0.9, "AdamW beta 1", group=TRAINING)
    adam_beta2: float = option(0.999, "AdamW beta 2", group=TRAINING)
    adam_weight_decay: float = option(0.0, "AdamW weight decay", group=TRAINING)
    adam_epsilon: float = option(1e-8, "AdamW epsilon", group=TRAINING)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", group=TRAINING)
    mixed_precision: str = option(
        "auto",
        "precision of the forward pass; vectors are always float32; auto takes fp16 or bf16 as accelerate is "
        "configured, otherwise bf16 where the hardware computes in it",
        group=TRAINING,
        choices=("auto", "no", "fp16", "bf16"),
    )
    gradient_checkpointing: bool = option(False, "less memory, more time", group=TRAINING, shapes_result=False)
    seed: int = option(0, "seed of everything random", group=TRAINING)

    avf: bool = option(True, "Adaptive Vector Freezing", group=AVF)
    avf_first_step: int | None = option(None, "t_i: first freezing; by default 35 % of the steps", group=AVF)
    avf_every: int | None = option(None, "t_f: steps between freezings; by default 3 % of the steps", group=AVF)
    avf_num_freezes: int | None = option(None, "n_f: number of freezings; by default 10", group=AVF)
    avf_top_k: int | None = option(None, "k: vectors frozen at a time; by default 5", group=AVF)

    output_dir: str | None = option(
        None, "run folder; by default runs/FOLDER, numbered where that exists", group=OUTPUT, shapes_result=False
    )
    checkpointing_steps: int | None = option(
        None,
        "steps between checkpoints and sample grids; by default a quarter of the steps",
        group=OUTPUT,
        shapes_result=False,
    )
    checkpoints_total_limit: int = option(3, "checkpoints kept, the newest", group=OUTPUT, shapes_result=False)
    num_validation_images: int = option(
        4, "pictures per prompt in a sample grid; 0 draws none", group=OUTPUT, shapes_result=False
    )
    validation_prompt: str | None = option(
        None, "a further prompt to draw in the sample grids", group=OUTPUT, shapes_result=False
    )
    report_to: str | None = option(
        None, "experiment tracker", group=OUTPUT, choices=("tensorboard",), shapes_result=False
    )

    push_to_hub: bool = option(False, "upload the finished run's card and subject file", group=HUB, shapes_result=False)
    hub_model_id: str | None = option(
        None, "repository to upload to; by default the run folder's name", group=HUB, shapes_result=False
    )

    def __post_init__(self) -> None:
        problems = check({f.name: getattr(self, f.name) for f in fields(self)})
        if problems:
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
        """The words that call the subject: token and noun where the prompt says them, otherwise the whole prompt."""
        words, prompt = f"{self.token} {self.class_noun}", str(self.instance_prompt)
        return words if words in prompt else prompt

    def noun(self) -> str:
        """What the subject is, as given or by its folder's name; nothing where given prompts make it needless.

        Raises:
            VectorFitError: the folder's name does not say.
        """
        both_given = self.instance_prompt and (self.class_prompt or not self.with_class_images)
        return self.class_noun or ("" if both_given else class_noun(Path(self.instance_data_dir).resolve().name))

    def completed(self, base: BaseModel, *, mixed_precision: str, accumulation: int) -> "TrainConfig":
        """These settings with everything inferred filled in: by the base's preset, the folder's name, the machine.

        Raises:
            VectorFitError: the folder's name does not say what the subject is.
        """
        folder, preset = Path(self.instance_data_dir).resolve(), base.preset
        noun = self.noun()
        instance_prompt, class_prompt = default_prompts(self.token, noun) if noun else ("", "")
        steps = self.max_train_steps or preset.max_train_steps
        schedule = avf_schedule(steps)
        inferred = {
            "class_noun": noun or None,
            "instance_prompt": instance_prompt,
            "class_prompt": class_prompt or self.instance_prompt,
            "resolution": preset.resolution,
            "num_class_images": preset.num_class_images,
            "drift_weight": preset.drift_weight if self.prior == "drift" else None,
            "max_train_steps": steps,
            "learning_rate": methods.find(self.method).rate(preset.rates_for, preset.learning_rate),
            "gradient_accumulation_steps": accumulation,
            "avf_first_step": schedule.first_step if self.freezes else None,
            "avf_every": schedule.every if self.freezes else None,
            "avf_num_freezes": schedule.num_freezes if self.freezes else None,
            "avf_top_k": 5 if self.freezes else None,
            "ema_decay": 0.99 if self.use_ema else None,
            "checkpointing_steps": max(1, math.ceil(steps / 4)),
            "output_dir": str(free_folder(Path("runs") / folder.name)),
        }
        filled = {name: value for name, value in inferred.items() if getattr(self, name) is None}
        if self.mixed_precision == "auto":
            filled["mixed_precision"] = mixed_precision
        if self.base_model == "auto":
            filled["base_model"] = base.name
        return replace(self, **filled)

    @property
    def freezes(self) -> bool:
        return self.avf and methods.find(self.method).freezing is not None

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def shaping(self, num_processes: int) -> dict[str, Any]:
        """The settings that the trained vectors depend on; what a batch is split into is not one of them."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["shapes_result"]}
        del kept["gradient_accumulation_steps"]
        return {**kept, "train_batch_size": self.effective_batch_size * num_processes}


def _range_problems(values: Mapping[str, Any]) -> dict[str, str]:
    def least(bound: float, *names: str, above: bool = False) -> dict[str, str]:
        words = f"expected {'more than' if above else 'at least'} {bound}"
        given = {name: values[name] for name in names if values[name] is not None}
        return {
            name: f"--{name}: got {value}, {words}"
            for name, value in given.items()
            if not math.isfinite(value) or value < bound or (above and value == bound)
        }

    found = least(1, "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "num_class_images")
    found |= least(1, "resolution", "sample_batch_size", "avf_first_step", "avf_every", "checkpointing_steps")
    found |= least(1, "checkpoints_total_limit")
    found |= least(0, "prior_loss_weight", "drift_weight", "lr_warmup_steps", "adam_weight_decay", "avf_num_freezes")
    found |= least(0, "avf_top_k", "num_validation_images", "seed")
    found |= least(0, "learning_rate", "text_encoder_lr", "max_grad_norm", "adam_epsilon", "snr_gamma", above=True)
    for name in ("adam_beta1", "adam_beta2", "ema_decay"):
        if values[name] is not None and not 0 <= values[name] < 1:
            found[name] = f"--{name}: got {values[name]}, expected at least 0 and below 1"
    if values["resolution"] and values["resolution"] % 8:
        found["resolution"] = f"--resolution: got {values['resolution']}, expected a multiple of 8"
    return found


def check(values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with these settings, by the setting that is to blame."""
    found = _range_problems(values)
    if not values["instance_data_dir"]:
        found["instance_data_dir"] = "--instance_dir: not given, expected a folder with photos of the subject"
    if not values["token"].strip():
        found["token"] = "--token: is empty, expected a rare word such as sks"
    for name, most in WORDS.items():
        text = values[name] or ""
        if len(text) > most or not text.isprintable():
            shown = ascii(text[:20]) + ("..." if len(text) > 20 else "")
            found[name] = f"--{name}: got {shown}, expected at most {most} printable characters"
    for name in (f.name for f in fields(TrainConfig) if f.metadata["choices"]):
        choices = next(f for f in fields(TrainConfig) if f.name == name).metadata["choices"]
        if values[name] is not None and values[name] not in choices:
            found[name] = f"--{name}: got {values[name]!r}, expected one of {', '.join(choices)}"
    if values["class_data_dir"] and values["prior"] != "class_images":
        found["class_data_dir"] = (
            f"--class_data_dir: --prior {values['prior']} uses no class images; leave one of them out"
        )
    if values["drift_weight"] is not None and values["prior"] != "drift":
        found["drift_weight"] = f"--drift_weight: --prior {values['prior']} has no such penalty; give --prior drift"
    if values["lr_warmup_steps"] and values["lr_scheduler"] == "constant":
        found["lr_warmup_steps"] = (
            "--lr_warmup_steps: the constant schedule has no warm-up; give --lr_scheduler constant_with_warmup"
        )
    if values["text_encoder_lr"] is not None and not values["train_text_encoder"]:
        found["text_encoder_lr"] = (
            "--text_encoder_lr: the text encoder is not trained; leave out --no-train_text_encoder"
        )
    if values["ema_decay"] is not None and not values["use_ema"]:
        found["ema_decay"] = "--ema_decay: no moving average is kept; give --use_ema"
    method = methods.METHODS.get(values["method"])  # None where it is a mistake, which is noted above
    why = "--no-avf" if not values["avf"] else f"--method {values['method']}"
    for name in ("avf_first_step", "avf_every", "avf_num_freezes", "avf_top_k"):
        if values[name] is not None and not (values["avf"] and method is not None and method.freezing):
            found[name] = f"--{name}: {why} freezes nothing; leave one of them out"
    if values["prior"] == "drift" and method is not None and not method.trains_vectors:
        found["prior"] = f"--prior drift: it measures what vectors changed, and --method {values['method']} has none"
    if values["hub_model_id"] and not values["push_to_hub"]:
        found["hub_model_id"] = "--hub_model_id: nothing is uploaded without --push_to_hub"
    return found


# setting -> what was inferred from it, and is inferred anew when a flag changes it in a recorded run
INFERRED = {
    "instance_data_dir": ("class_noun", "instance_prompt", "class_prompt"),
    "class_noun": ("instance_prompt", "class_prompt"),
    "token": ("instance_prompt",),
    "max_train_steps": ("avf_first_step", "avf_every", "avf_num_freezes", "checkpointing_steps"),
    "base_model": (
        *("revision", "variant", "resolution", "learning_rate", "num_class_images", "drift_weight"),
        *("max_train_steps", "avf_first_step", "avf_every", "avf_num_freezes", "checkpointing_steps"),
    ),
    "prior": ("drift_weight", "class_data_dir"),
    "train_text_encoder": ("text_encoder_lr",),
    "lr_scheduler": ("lr_warmup_steps",),
    "avf": ("avf_first_step", "avf_every", "avf_num_freezes", "avf_top_k"),
    "method": ("learning_rate", "avf_first_step", "avf_every", "avf_num_freezes", "avf_top_k"),
    "use_ema": ("ema_decay",),
    "push_to_hub": ("hub_model_id",),
}


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist: a run never overwrites another."""
    number, folder = 2, wanted
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder
