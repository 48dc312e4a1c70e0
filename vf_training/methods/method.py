"""What a method is: its row in the registry, and what a training asks of it.

A row names what is done with models, and does not import it: command lines list the methods before PyTorch is loaded.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import vectorfit as vf

if TYPE_CHECKING:
    from torch import Tensor

    from vectorfit.modules import Models

    from .technique import Technique

DREAMBOOTH, TASKS = "dreambooth", "tasks"  # who offers a method


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Args:
        about: what it trains, in a few words.
        technique_at: how it gets into models and files, as MODULE:NAME in this package.
        vectors: what the core is configured to train (`VectorFitConfig`), of methods that train vectors.
        size: r, a width or a budget, of methods that have one; `size_of` says which. Of methods that train vectors it
            is the pattern's width.
        rates: learning rates by what they were chosen for, where they are not VectorFit's.
        freezing_at: what makes what freezes vectors, as MODULE:NAME in this package.
        penalty_at: what is added to the loss, as MODULE:NAME in this package.
        sigma_dropout: the probability with which a singular value is dropped while it trains.
        offered_by: `DREAMBOOTH`, `TASKS`, or both.
    """

    name: str
    about: str
    technique_at: str
    vectors: Mapping[str, Any] | None = None
    size: int = 0
    size_of: str = ""
    rates: Mapping[str, float] = field(default_factory=dict)
    freezing_at: str = ""
    penalty_at: str = ""
    sigma_dropout: float = 0.0
    offered_by: tuple[str, ...] = (DREAMBOOTH, TASKS)

    @property
    def technique(self) -> Technique:
        found: Technique = _imported(self.technique_at)
        return found

    @property
    def config(self) -> vf.VectorFitConfig | None:
        """What the core is configured to train, of methods that train vectors."""
        return None if self.vectors is None else vf.VectorFitConfig(**self.vectors)

    @property
    def freezing(self) -> Callable[..., vf.AdaptiveVectorFreezing] | None:
        """Makes what freezes vectors, from models, `seed` and the settings of `AdaptiveVectorFreezing`."""
        return _imported(self.freezing_at) if self.freezes else None

    @property
    def penalty(self) -> Callable[[Models], Tensor] | None:
        """What is added to the loss, from the models."""
        return _imported(self.penalty_at) if self.penalty_at else None

    @property
    def freezes(self) -> bool:
        """Whether it freezes vectors."""
        return bool(self.freezing_at)

    @property
    def trains_vectors(self) -> bool:
        """Whether its file is a subject file, which holds vectors."""
        return self.vectors is not None

    @property
    def is_variant(self) -> bool:
        """Whether it is VectorFit or one of the paper's ablations of it (Section 6.3)."""
        return self.vectors is not None and self.vectors.get("variant") == self.name

    @property
    def trains_biases(self) -> bool:
        """Whether biases are among its vectors, so that they may have a rate of their own."""
        return self.config is not None and self.config.trains_biases

    def rate(self, chosen_for: str, otherwise: float) -> float:
        """Its learning rate on a base or for the tasks; `otherwise` is VectorFit's."""
        return self.rates.get(chosen_for, otherwise)


@dataclass(frozen=True)
class Options:
    """What a training asks of a method beside its name.

    Args:
        size: LoRA's r, an adapter's width, AdaLoRA's b(T), the width of SVFT's pattern; None takes the method's own.
        heads: paths of the modules that the task brings along; they are trained whole, by every method.
        bias: "all" trains the LayerNorms' biases too, in methods that train vectors.
        seed: of everything that begins at random, and of random freezing.
        total_steps: the updates of the run, over which AdaLoRA shares its budget out.
        adapted_matrices: how many weights AdaLoRA's b(T) was set for; on other models the average rank stays.
        gaussian_lora: LoRA's first factor is drawn from a Gaussian, as diffusers' DreamBooth script does; otherwise
            uniformly, as LoRA's own code does.
    """

    size: int | None = None
    heads: tuple[str, ...] = ()
    bias: str = "layers"
    seed: int = 0
    total_steps: int = 1
    adapted_matrices: int = 72
    gaussian_lora: bool = False


def _imported(place: str) -> Any:
    return pkgutil.resolve_name(f"{__package__}.{place}")
