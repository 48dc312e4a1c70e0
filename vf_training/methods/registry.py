"""Every method there is, a row each: what it trains, its size, its rates, what freezes, who offers it.

To add a method, add its row; where none of the techniques fits, write one beside them.
"""

from collections.abc import Mapping
from typing import Any

from vectorfit import VectorFitError

from .method import DREAMBOOTH, TASKS, Method

# What rates were chosen for, beside TASKS, where they are those of each method's own paper.
STABLE_DIFFUSION, STARTER, SMALL_MODELS = "stable diffusion", "starter", "tasks with small models"
_VECTORS, _AVF = "vectors:VECTORS", "vectors:adaptive_freezing"


def _variant(name: str, about: str, **more: Any) -> Method:
    return Method(name, about, _VECTORS, {"variant": name}, **more)


_ROWS = (
    _variant("vectorfit", "all sigma and biases, with Adaptive Vector Freezing", freezing_at=_AVF),
    _variant("no_avf", "all sigma and biases, without freezing"),
    _variant("sigma_a+b", "sigma of attention, biases of attention and feed-forward"),
    _variant("sigma", "all sigma"),
    _variant("sigma_a", "sigma of attention"),
    # The paper compares with SVFT's random pattern at d = 2 (below Table 8), as SVFT itself does on GLUE; no biases.
    Method(
        "svft",
        "SVFT: entries of M drawn at random, as many as d more diagonals on each side have",
        _VECTORS,
        {"variant": "sigma", "pattern": "random"},
        size=2,
        size_of="d",
        rates={STARTER: 2e-2},
    ),
    # Rank 2: Table 5. Rates: of diffusers' script for Stable Diffusion, of benchmarks/dreambooth_table.py for the
    # starter; for the tasks, where each method's own paper trains.
    Method(
        "lora",
        "LoRA on the same layers",
        "lora:LORA",
        size=2,
        size_of="r",
        rates={STABLE_DIFFUSION: 1e-4, STARTER: 3e-3, TASKS: 5e-4},
    ),
    Method(
        "adalora", "AdaLoRA on the same layers", "lora:ADALORA", None, 144, "b(T)", {TASKS: 1e-3}, offered_by=(TASKS,)
    ),
    Method(
        "houlsby",
        "adapters behind attention and feed-forward",
        "adapters:HOULSBY",
        size=8,
        size_of="width",
        rates={TASKS: 3e-4},
        offered_by=(TASKS,),
    ),
    Method(
        "pfeiffer",
        "adapters behind feed-forward",
        "adapters:PFEIFFER",
        size=16,
        size_of="width",
        rates={TASKS: 3e-4},
        offered_by=(TASKS,),
    ),
    Method(
        "full",
        "every parameter",
        "whole:FULL",
        rates={STABLE_DIFFUSION: 5e-6, STARTER: 3e-4, TASKS: 2e-5},  # the first is DreamBooth's
    ),
    Method("head", "the task's head alone", "whole:HEAD", rates={TASKS: 1e-3}, offered_by=(TASKS,)),
    # What the paper compares freezing with. It gives no values: weight and probability are guesses, never tuned.
    Method(
        "random_freezing",
        "as vectorfit, with vectors frozen at random",
        _VECTORS,
        {},
        freezing_at="random_freezing:RandomVectorFreezing",
        offered_by=(DREAMBOOTH,),
    ),
    Method(
        "l1",
        "as no_avf, with an L1 penalty on the deltas",
        _VECTORS,
        {},
        penalty_at="regularizers:weak_l1",
        offered_by=(DREAMBOOTH,),
    ),
    Method(
        "sigma_dropout",
        "as no_avf, with dropout on sigma",
        _VECTORS,
        {},
        sigma_dropout=0.05,
        offered_by=(DREAMBOOTH,),
    ),
)
METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}


def names(offered_by: str) -> tuple[str, ...]:
    """The methods that a trainer offers, in the registry's order."""
    return tuple(name for name, method in METHODS.items() if offered_by in method.offered_by)


def find(name: str, offered_by: str | None = None) -> Method:
    """The method of a name, where a trainer is given one that it offers. Raises VectorFitError for any other name."""
    known = names(offered_by) if offered_by else tuple(METHODS)
    if name not in known:
        raise VectorFitError(f"method: got {name!r}, expected one of {', '.join(known)}")
    return METHODS[name]
