"""The settings of a training, all groups together. Each setting is in a file of `settings`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vectorfit import VectorFitError
from vf_training.options import problems_of

from .prompts import class_noun, default_prompts
from .settings.base import BaseSettings
from .settings.freezing import FreezingSettings, freezes
from .settings.hub import HubSettings
from .settings.output import OutputSettings
from .settings.prior import PriorSettings
from .settings.subject import SubjectSettings
from .settings.training import TrainingSettings

if TYPE_CHECKING:
    from .base_models import BaseModel


@dataclass(frozen=True)
class Circumstances:
    """What a setting is inferred from besides other settings: the base, and accelerate's configuration."""

    base: "BaseModel"
    mixed_precision: str
    accumulation: int


# dataclasses take the fields of the last base first: --help and `completed` go from the subject to the hub.
@dataclass(frozen=True)
class TrainConfig(
    HubSettings, OutputSettings, FreezingSettings, TrainingSettings, PriorSettings, BaseSettings, SubjectSettings
):
    """One training. `None` means "by the base model's preset" or "inferred"; `options.completed` fills these in.

    Raises:
        VectorFitError: values out of range or contradictory, all of them in one message.
    """

    def __post_init__(self) -> None:
        if problems := problems_of(TrainConfig, self.as_dict()):
            raise VectorFitError("\n".join(problems.values()))

    @property
    def with_class_images(self) -> bool:
        return self.prior == "class_images"

    @property
    def with_class_samples(self) -> bool:
        """Whether every batch has a half that keeps the class, under the class prompt."""
        return self.prior in ("class_images", "base_prediction")

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
        """What the subject is, as given or from its folder's name; "" where that says nothing and prompts are given.

        Raises:
            VectorFitError: the folder's name does not say.
        """
        both_given = self.instance_prompt and (self.class_prompt or not self.with_class_samples)
        try:
            return self.class_noun or class_noun(Path(self.instance_data_dir).resolve().name)
        except VectorFitError:
            if both_given:
                return ""
            raise

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
