"""The settings of a training: each default and each help text is written once, here."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vectorfit import VectorFitError, avf_schedule

from .base_models import Preset
from .prompts import class_noun, default_prompts


def option(default: Any, text: str, *, group: str, flags: tuple[str, ...] = (), choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": text, "group": group, "flags": flags, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """One training. `None` means "by the base model's preset" or "inferred"; `completed` fills these in."""

    instance_data_dir: str = option(
        "", "folder with three to ten photos of the subject (required)", group="subject", flags=("--instance_dir",)
    )
    class_noun: str | None = option(
        None, "what the subject is, such as dog; by default from the folder's name", group="subject"
    )
    token: str = option("sks", "the rare word that will name the subject", group="subject")
    instance_prompt: str | None = option(
        None, "prompt of the photos; by default 'a photo of TOKEN NOUN'", group="subject"
    )
    class_prompt: str | None = option(
        None, "prompt of the class images; by default 'a photo of a NOUN'", group="subject"
    )

    base_model: str = option(
        "auto",
        "starter, a diffusers folder or a hub id; auto takes CompVis/stable-diffusion-v1-4 where there is an "
        "accelerator and starter where there is none",
        group="base model",
        flags=("--pretrained_model_name_or_path",),
    )
    revision: str | None = option(None, "revision of a hub model", group="base model")
    variant: str | None = option(None, "weight files' variant, such as fp16", group="base model")
    resolution: int | None = option(None, "side of the training images in pixels", group="base model")

    with_prior_preservation: bool = option(True, "keep the class with class images", group="prior preservation")
    prior_loss_weight: float = option(
        1.0, "weight of the class images' loss; the paper uses 0.5 to 1.0", group="prior preservation"
    )
    num_class_images: int | None = option(None, "class images to train with", group="prior preservation")
    class_data_dir: str | None = option(None, "your own class images, used as they are", group="prior preservation")
    sample_batch_size: int = option(8, "pictures sampled at once", group="prior preservation")

    max_train_steps: int | None = option(None, "optimizer updates", group="training")
    train_batch_size: int = option(4, "photos per step and process; as many class images come on top", group="training")
    gradient_accumulation_steps: int = option(1, "batches per update", group="training")
    learning_rate: float | None = option(None, "learning rate of sigma and bias deltas", group="training")
    lr_scheduler: str = option(
        "constant",
        "course of the rate",
        group="training",
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    lr_warmup_steps: int = option(0, "updates of warm-up, where the scheduler has it", group="training")
    train_text_encoder: bool = option(True, "adapt the text encoder too", group="training")
    adam_beta1: float = option(0.9, "AdamW beta 1", group="training")
    adam_beta2: float = option(0.999, "AdamW beta 2", group="training")
    adam_weight_decay: float = option(0.0, "AdamW weight decay", group="training")
    adam_epsilon: float = option(1e-8, "AdamW epsilon", group="training")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", group="training")
    mixed_precision: str = option(
        "auto",
        "precision of the forward pass; vectors are always float32; auto takes bf16 where the hardware computes in it",
        group="training",
        choices=("auto", "no", "fp16", "bf16"),
    )
    gradient_checkpointing: bool = option(False, "less memory, more time", group="training")
    seed: int = option(0, "seed of everything random", group="training")

    avf: bool = option(True, "Adaptive Vector Freezing", group="adaptive vector freezing")
    avf_first_step: int | None = option(
        None, "t_i: first freezing; by default 35 % of the steps", group="adaptive vector freezing"
    )
    avf_every: int | None = option(
        None, "t_f: steps between freezings; by default 3 % of the steps", group="adaptive vector freezing"
    )
    avf_num_freezes: int | None = option(
        None, "n_f: number of freezings; by default 10", group="adaptive vector freezing"
    )
    avf_top_k: int = option(5, "k: vectors frozen at a time", group="adaptive vector freezing")

    output_dir: str | None = option(
        None, "run folder; by default runs/FOLDER, numbered where that exists", group="output"
    )
    checkpointing_steps: int | None = option(
        None, "steps between checkpoints and sample grids; by default a quarter of the steps", group="output"
    )
    num_validation_images: int = option(4, "pictures per prompt in a sample grid; 0 draws none", group="output")
    report_to: str | None = option(None, "experiment tracker", group="output", choices=("tensorboard",))

    def __post_init__(self) -> None:
        problems = [message for message in self._problems() if message]
        if problems:
            raise VectorFitError("\n".join(problems))

    def _problems(self) -> list[str]:
        def least(name: str, bound: float, above: bool = False) -> str:
            value = getattr(self, name)
            if value is None or (math.isfinite(value) and (value > bound if above else value >= bound)):
                return ""
            return f"--{name}: got {value}, expected {'more than' if above else 'at least'} {bound}"

        whole = (
            *("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "num_class_images", "resolution"),
            *("sample_batch_size", "avf_first_step", "avf_every", "checkpointing_steps"),
        )
        found = [least(name, 1) for name in whole]
        nonnegative = ("prior_loss_weight", "lr_warmup_steps", "adam_weight_decay", "avf_num_freezes", "avf_top_k")
        found += [least(name, 0) for name in (*nonnegative, "num_validation_images", "seed")]
        found += [least(name, 0, above=True) for name in ("learning_rate", "max_grad_norm", "adam_epsilon")]
        if self.resolution and self.resolution % 8:
            found.append(f"--resolution: got {self.resolution}, expected a multiple of 8")
        if not self.instance_data_dir:
            found.append("--instance_dir: not given, expected a folder with photos of the subject")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                found.append(f"--{name}: got {getattr(self, name)}, expected at least 0 and below 1")
        if not self.token.strip():
            found.append("--token: is empty, expected a rare word such as sks")
        return found

    def completed(self, preset: Preset) -> "TrainConfig":
        """These settings with everything inferred filled in.

        Raises:
            VectorFitError: the folder's name does not say what the subject is.
        """
        folder = Path(self.instance_data_dir).resolve()
        both_given = self.instance_prompt and (self.class_prompt or not self.with_prior_preservation)
        noun = self.class_noun or ("" if both_given else class_noun(folder.name))
        instance_prompt, class_prompt = default_prompts(self.token, noun) if noun else ("", "")
        steps = self.max_train_steps or preset.max_train_steps
        schedule = avf_schedule(steps)
        inferred = {
            "class_noun": noun or None,
            "instance_prompt": instance_prompt,
            "class_prompt": class_prompt or self.instance_prompt,
            "resolution": preset.resolution,
            "num_class_images": preset.num_class_images,
            "max_train_steps": steps,
            "learning_rate": preset.learning_rate,
            "avf_first_step": schedule.first_step,
            "avf_every": schedule.every,
            "avf_num_freezes": schedule.num_freezes,
            "checkpointing_steps": max(1, math.ceil(steps / 4)),
            "output_dir": str(free_folder(Path("runs") / folder.name)),
        }
        return replace(self, **{name: value for name, value in inferred.items() if getattr(self, name) is None})

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist: a run never overwrites another."""
    number, folder = 2, wanted
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder
