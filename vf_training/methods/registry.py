"""Every method there is, a row each: what it trains, its size, its rates, what freezes, who offers it.

To add a method, add its row; where none of the techniques fits, write one beside them.
"""

from collections.abc import Mapping
from typing import Any

import torch

from vectorfit import AdaptiveVectorFreezing, VectorFitConfig, VectorFitError, plan
from vectorfit.atomic import PathLike
from vectorfit.modules import Models, named_models
from vectorfit.roles import ATTENTION, FEED_FORWARD

from .adapters import Adapters
from .lora import AdaLora, Lora
from .method import DREAMBOOTH, TASKS, Method, Options, Trained, layers_inside, modules_of
from .random_freezing import RandomVectorFreezing
from .regularizers import l1
from .vectors import Vectors
from .whole import FullFineTuning, HeadAlone

# What rates were chosen for, beside TASKS, where they are those of each method's own paper.
STABLE_DIFFUSION, STARTER, SMALL_MODELS = "stable diffusion", "starter", "tasks with small models"
_VECTORS = Vectors()


def _variant(name: str, about: str, **more: Any) -> Method:
    return Method(name, about, _VECTORS, VectorFitConfig(variant=name), **more)


def adaptive_freezing(models: Models, seed: int, **schedule: Any) -> AdaptiveVectorFreezing:
    """The core's Adaptive Vector Freezing, in the form that a row has it: nothing in it is random."""
    return AdaptiveVectorFreezing(models, **schedule)


_ROWS = (
    _variant("vectorfit", "all sigma and biases, with Adaptive Vector Freezing", freezing=adaptive_freezing),
    _variant("no_avf", "all sigma and biases, without freezing"),
    _variant("sigma_a+b", "sigma of attention, biases of attention and feed-forward"),
    _variant("sigma", "all sigma"),
    _variant("sigma_a", "sigma of attention"),
    # The paper compares with SVFT's random pattern at d = 2 (below Table 8), as SVFT itself does on GLUE; no biases.
    Method(
        "svft",
        "SVFT: entries of M drawn at random, as many as d more diagonals on each side have",
        _VECTORS,
        VectorFitConfig(variant="sigma", pattern="random"),
        size=2,
        size_of="d",
        rates={STARTER: 2e-2},
    ),
    # Rank 2: Table 5. Rates: of diffusers' script for Stable Diffusion, of benchmarks/dreambooth_table.py for the
    # starter; for the tasks, where each method's own paper trains.
    Method(
        "lora",
        "LoRA on the same layers",
        Lora(),
        size=2,
        size_of="r",
        rates={STABLE_DIFFUSION: 1e-4, STARTER: 3e-3, TASKS: 5e-4},
    ),
    Method("adalora", "AdaLoRA on the same layers", AdaLora(), None, 144, "b(T)", {TASKS: 1e-3}, offered_by=(TASKS,)),
    Method(
        "houlsby",
        "adapters behind attention and feed-forward",
        Adapters((ATTENTION, FEED_FORWARD)),
        size=8,
        size_of="width",
        rates={TASKS: 3e-4},
        offered_by=(TASKS,),
    ),
    Method(
        "pfeiffer",
        "adapters behind feed-forward",
        Adapters((FEED_FORWARD,)),
        size=16,
        size_of="width",
        rates={TASKS: 3e-4},
        offered_by=(TASKS,),
    ),
    Method(
        "full",
        "every parameter",
        FullFineTuning(),
        rates={STABLE_DIFFUSION: 5e-6, STARTER: 3e-4, TASKS: 2e-5},  # the first is DreamBooth's
    ),
    Method("head", "the task's head alone", HeadAlone(), rates={TASKS: 1e-3}, offered_by=(TASKS,)),
    # What the paper compares freezing with. It gives no values: weight and probability are guesses, never tuned.
    Method(
        "random_freezing",
        "as vectorfit, with vectors frozen at random",
        _VECTORS,
        VectorFitConfig(),
        freezing=RandomVectorFreezing,
        offered_by=(DREAMBOOTH,),
    ),
    Method(
        "l1",
        "as no_avf, with an L1 penalty on the deltas",
        _VECTORS,
        VectorFitConfig(),
        penalty=lambda models: 1e-5 * l1(models),
        offered_by=(DREAMBOOTH,),
    ),
    Method(
        "sigma_dropout",
        "as no_avf, with dropout on sigma",
        _VECTORS,
        VectorFitConfig(),
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


def put_in(name: str, models: Models, options: Options | None = None) -> Trained:
    """Puts a method into models, in place: afterwards what it trains, and nothing else, is trainable.

    Raises:
        VectorFitError: an unknown method, a layer that cannot be adapted, or nothing to train.
    """
    method, options, models = find(name), options or Options(), named_models(models)
    size = method.size if options.size is None else options.size
    # What VectorFit would adapt: LoRA takes the same layers, and all methods are counted against the same total.
    excluded = layers_inside(models, options.exclude)
    frame = plan(models, VectorFitConfig(modules_to_save=options.heads, exclude_modules=excluded))
    trained = Trained(method, models, frame, size, options.heads, wrapped=dict(models))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        method.technique.insert(trained, options)
    for path in options.heads:
        modules_of(models)[path].requires_grad_(True)
    if not trained.parameters:
        raise VectorFitError(f"method: {name} trains nothing, for the task brings no head along; take another")
    return trained


def save(
    trained: Trained,
    path: PathLike,
    *,
    base_model: str,
    base_revision: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes what was trained. Equal trainings give equal bytes.

    Raises:
        VectorFitError: something trained is not finite, or the file cannot be written.
    """
    trained.method.technique.save(trained, path, base_model, base_revision, metadata or {})
