"""The base model, and the size at which it is trained."""

from dataclasses import dataclass

from vf_dreambooth.presets import of_known_bases
from vf_training.options import at_least, multiple_of, option

GROUP = "base model"


@dataclass(frozen=True)
class BaseSettings:
    """The flags under "base model"."""

    base_model: str = option(
        "auto",
        "starter, a diffusers folder, a single-file checkpoint or a hub id; auto takes CompVis/stable-diffusion-v1-4 "
        "where there is an accelerator and starter where there is none",
        group=GROUP,
        flags=("--base_model", "--pretrained_model_name_or_path"),
        infer=lambda _, at: at.base.name,
        shapes_result=False,
    )
    revision: str | None = option(None, "revision of a hub model", group=GROUP, depends_on=("base_model",))
    variant: str | None = option(None, "weight files' variant, such as fp16", group=GROUP, depends_on=("base_model",))
    resolution: int | None = option(
        None,
        "side of the training images in pixels",
        group=GROUP,
        checks=(at_least(1), multiple_of(8)),
        infer=lambda _, at: at.base.preset.resolution,
        inferred=of_known_bases("resolution"),
        depends_on=("base_model",),
    )
