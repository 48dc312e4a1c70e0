"""When Adaptive Vector Freezing freezes what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vectorfit import avf_schedule
from vectorfit.schedule import TOP_K
from vf_training import methods
from vf_training.options import at_least, option

GROUP = "adaptive vector freezing"
AVF_DEPENDS_ON = ("avf", "method", "max_train_steps")


def freezes(values: Mapping[str, Any]) -> bool:
    method = methods.METHODS.get(values["method"])  # None if the name is wrong, which is reported separately
    return bool(values["avf"] and method is not None and method.freezes)


def _freezing_conflict(values: Mapping[str, Any]) -> str:
    why = "--no-avf" if not values["avf"] else f"--method {values['method']}"
    return "" if freezes(values) else f"{why} freezes nothing; leave one of them out"


@dataclass(frozen=True)
class FreezingSettings:
    """The flags under "adaptive vector freezing"."""

    avf: bool = option(True, "Adaptive Vector Freezing", group=GROUP)
    avf_first_step: int | None = option(
        None,
        "t_i: first freezing; by default 35 % of the steps",
        group=GROUP,
        checks=(at_least(1),),
        conflict=_freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).first_step if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_every: int | None = option(
        None,
        "t_f: steps between freezings; by default 3 % of the steps",
        group=GROUP,
        checks=(at_least(1),),
        conflict=_freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).every if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_num_freezes: int | None = option(
        None,
        "n_f: number of freezings; by default 10",
        group=GROUP,
        checks=(at_least(0),),
        conflict=_freezing_conflict,
        infer=lambda config, _: avf_schedule(config.max_train_steps).num_freezes if config.freezes else None,
        depends_on=AVF_DEPENDS_ON,
    )
    avf_strength: str = option(
        "absolute",
        "how freezing measures the training of a vector: by the distance from its start, as in the paper, or by that "
        "distance relative to its learning rate",
        group=GROUP,
        choices=("absolute", "relative"),
        conflict=_freezing_conflict,
        depends_on=("avf", "method"),
    )
    avf_top_k: int | None = option(
        None,
        f"k: vectors frozen at a time; by default {TOP_K}",
        group=GROUP,
        checks=(at_least(0),),
        conflict=_freezing_conflict,
        infer=lambda config, _: TOP_K if config.freezes else None,
        depends_on=("avf", "method"),
    )
