"""What keeps the class as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vf_dreambooth.presets import of_known_bases
from vf_training import methods
from vf_training.options import at_least, only_with, option

GROUP = "prior preservation"
PRIORS = ("class_images", "base_prediction", "drift", "none")


def _prior_conflict(values: Mapping[str, Any]) -> str:
    method = methods.METHODS.get(values["method"])
    if method is None or method.trains_vectors:
        return ""
    reasons = {
        "drift": "drift measures what vectors changed",
        "base_prediction": "the base is found by disabling vectors",
    }
    reason = reasons.get(values["prior"])
    return f"{reason}, and --method {values['method']} has none" if reason else ""


@dataclass(frozen=True)
class PriorSettings:
    """The flags under "prior preservation"."""

    prior: str = option(
        "class_images",
        "what keeps the class as it is: images of the class that the base makes; or what the base itself predicts for "
        "the photos under the class prompt, which needs no images; or a penalty on drift (the squared norm of the "
        "weights' change), which needs neither",
        group=GROUP,
        choices=PRIORS,
        conflict=_prior_conflict,
    )
    prior_loss_weight: float = option(
        1.0, "weight of the class samples' loss; the paper uses 0.5 to 1.0", group=GROUP, checks=(at_least(0),)
    )
    drift_weight: float | None = option(
        None,
        "weight of the penalty on drift",
        group=GROUP,
        checks=(at_least(0),),
        conflict=only_with("prior", "drift", because="--prior {prior} has no such penalty; give --prior drift"),
        infer=lambda config, at: at.base.preset.drift_weight if config.prior == "drift" else None,
        inferred=of_known_bases("drift_weight"),
        depends_on=("base_model", "prior"),
    )
    num_class_images: int | None = option(
        None,
        "class images to train with",
        group=GROUP,
        checks=(at_least(1),),
        infer=lambda _, at: at.base.preset.num_class_images,
        inferred=of_known_bases("num_class_images"),
        depends_on=("base_model",),
    )
    class_data_dir: str | None = option(
        None,
        "your own class images, used as they are",
        group=GROUP,
        conflict=only_with("prior", "class_images", because="--prior {prior} uses no class images; leave one out"),
        depends_on=("prior",),
        shapes_result=False,
    )
    sample_batch_size: int = option(
        8,
        "class images and previews generated at once; images of another batch size differ by rounding",
        group=GROUP,
        checks=(at_least(1),),
        shapes_result=False,
    )
