"""The least memory that a training takes, by arithmetic on the base's configuration: before its weights are fetched.

Activations come on top, and so does what a device's own libraries take.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.modules import named_modules
from vf_training import methods
from vf_training.device import accelerator_memory, main_memory

from .base_models import BaseModel
from .config import TrainConfig
from .families import Family, family_at, family_with_preset
from .families.skeleton import skeleton

ADAMW = 16  # bytes of a trained number: itself, its gradient and two moments, in float32
GIB = 2**30


@dataclass(frozen=True)
class Footprint:
    """How many numbers a training has to do with.

    Attributes:
        trained: of vectors, in `vectors` vectors.
        weights: of the adapted models.
        factors: in U and Vh of all their layers; `square` in the square one of the two.
        frozen: of the models that stay as they are: language models, the VAE.
    """

    trained: int
    vectors: int
    weights: int
    factors: int
    square: int
    frozen: int = 0

    def bytes(self, weight: int = 4, factor: int = 4, *, square: bool = False) -> int:
        """Of weights, factors and what AdamW keeps, with so many bytes a weight and a number of a factor."""
        factors = self.square if square else self.factors
        return weight * self.weights + factor * factors + ADAMW * self.trained

    def shortage(self, main: int, accelerator: int | None = None) -> str:
        """Why so many bytes of main memory, and of an accelerator's own, do not suffice; empty if they may.

        Weights are loaded in main memory. Models that stay as they are need not be on the accelerator.
        """
        loaded, frozen = 4 * (self.weights + self.frozen), 0 if accelerator else 4 * self.frozen
        needed, there = self.bytes() + frozen, accelerator or main
        if needed > there:
            parts = f"weights {_gib(4 * self.weights)}, their factors {_gib(4 * self.factors)}, vectors and what AdamW "
            parts += f"keeps of them {_gib(ADAMW * self.trained)}"
            parts += f", models that stay as they are {_gib(frozen)}" if frozen else ""
            where = "the accelerator has" if accelerator else "the machine has"
            return f"takes at least {_gib(needed)} GiB ({parts}), and {where} {_gib(there)} GiB"
        if loaded > main:
            return f"has {_gib(loaded)} GiB of weights to load, and the machine has {_gib(main)} GiB of main memory"
        return ""


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"


def of_parts(family: Family, pipe: Any, *, text_encoders: bool) -> Footprint:
    """The footprint of a base's models, as `skeleton` gives them, with or without its text encoders' vectors."""
    models = family.models_to_train(pipe, text_encoders=text_encoders)
    unreached = family.unreached(pipe)
    paths = tuple(path for path, module in named_modules(models) if any(module is left for left in unreached))
    plan = vf.plan(models, vf.VectorFitConfig(exclude_modules=methods.layers_inside(models, paths)))
    shapes = [layer.shape for layer in plan.layers if "sigma" in layer.vectors]
    parts = [part for part in vars(pipe).values() if isinstance(part, nn.Module)]
    every = sum(p.numel() for part in parts for p in part.parameters())
    return Footprint(
        trained=plan.num_trainable,
        vectors=plan.num_vectors,
        weights=plan.num_total,
        factors=sum(min(shape) * sum(shape) for shape in shapes),
        square=sum(min(shape) ** 2 for shape in shapes),
        frozen=every - plan.num_total,
    )


def of_training(base: BaseModel, config: TrainConfig) -> Footprint | None:
    """The footprint of a training; None where it cannot be known without the weights.

    That is so for a checkpoint in a single file, for methods that do not train vectors, and where a configuration
    cannot be read: then loading fails too, and says why.
    """
    if methods.find(config.method).config is None or Path(base.location).is_file():
        return None
    try:
        family = family_with_preset(base.name) or family_at(base.location, base.revision)
        pipe = skeleton(base.location, base.revision)
        return of_parts(family, pipe, text_encoders=bool(config.train_text_encoder))
    except Exception:  # of a hub client, of a class that is gone, of a damaged file
        return None


def check(base: BaseModel, config: TrainConfig) -> None:
    """Refuses a training that cannot fit this machine, before the base's weights are fetched or loaded.

    Raises:
        VectorFitError: it takes more memory than there is, with the arithmetic.
    """
    footprint = of_training(base, config)
    shortage = footprint.shortage(main_memory(), accelerator_memory()) if footprint else ""
    if shortage:
        raise VectorFitError(
            f"memory: to train {base.name} {shortage}; take a smaller base (docs/bases.md has what each takes, "
            "--base_model starter fits every machine), or another machine"
        )
