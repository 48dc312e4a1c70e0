"""What a method is: its row in the registry, its technique, and what it leaves in models.

A row names its technique and does not import it: command lines list the methods before PyTorch is loaded.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import vectorfit as vf

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vectorfit.atomic import PathLike
    from vectorfit.modules import Models
    from vectorfit.planning import Plan

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
        exclude: paths of modules to leave as they are, with all that is in them.
        bias: "all" trains the LayerNorms' biases too, in methods that train vectors.
        seed: of everything that begins at random, and of random freezing.
        total_steps: the updates of the run, over which AdaLoRA shares its budget out.
        adapted_matrices: how many weights AdaLoRA's b(T) was set for; on other models the average rank stays.
        factors: how the factors are kept, in methods that train vectors; see `VectorFitConfig`.
        gaussian_lora: LoRA's first factor is drawn from a Gaussian, as diffusers' DreamBooth script does; otherwise
            uniformly, as LoRA's own code does.
    """

    size: int | None = None
    heads: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bias: str = "layers"
    seed: int = 0
    total_steps: int = 1
    adapted_matrices: int = 72
    gaussian_lora: bool = False
    factors: str = "float32"


@dataclass
class Trained:
    """A method in models: what it trains there, and what its file has to know.

    `wrapped` is what to call in training: PEFT wraps its own model around each of `models`, other methods do not.
    `plan` is VectorFit's on the same models: it counts their parameters and names the layers that LoRA adapts.
    """

    method: Method
    models: dict[str, nn.Module]
    plan: Plan
    size: int
    heads: tuple[str, ...] = ()
    wrapped: dict[str, nn.Module] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)  # of full fine-tuning, whose file holds the change
    base_sha256: str = ""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, heads included, by name; vectors have the names of their file."""
        return self.method.technique.parameters(self)

    def in_head(self, name: str) -> bool:
        """Whether a parameter belongs to a module that the task brings along."""
        return any(name.startswith(f"{path}.") for path in self.heads)

    @property
    def counts(self) -> dict[str, int]:
        """Trained parameters without the heads', the heads', and those of the pretrained models without heads."""
        modules = [modules_of(self.models)[path] for path in self.heads]
        head = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
        in_heads = sum(p.numel() for module in modules for p in module.parameters())
        return {
            "parameters": sum(value.numel() for value in self.parameters.values()) - head,
            "head_parameters": head,
            "base_parameters": self.plan.num_total - in_heads,
        }

    @property
    def table(self) -> str:
        """What is trained, in full."""
        return str(self.plan) if self.method.trains_vectors else self.summary

    @property
    def summary(self) -> str:
        """What is trained, in a line."""
        if self.method.trains_vectors:
            return self.plan.summary()
        count = sum(parameter.numel() for parameter in self.parameters.values())
        share = 100 * count / self.plan.num_total
        return f"{self.method.name}: {count:,} parameters trained ({share:.4f} % of {self.plan.num_total:,})"


class Technique(ABC):
    """Puts trainable parameters into models, writes them to a file and takes them from there."""

    @abstractmethod
    def insert(self, trained: Trained, options: Options) -> None:
        """Puts the parameters into `trained.models`, in place, and makes them trainable."""

    def parameters(self, trained: Trained) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        parameters = parameters_of(trained.models)
        return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}

    @abstractmethod
    def save(
        self,
        trained: Trained,
        path: PathLike,
        base_model: str,
        base_revision: str | None,
        metadata: Mapping[str, str],
        *,
        write: bool = True,
    ) -> None:
        """Writes what was trained, where `write`; see `methods.save`. Equal trainings give equal bytes.

        Raises:
            VectorFitError: something trained is not finite, or the file cannot be written.
        """

    @abstractmethod
    def load(self, models: Models, path: PathLike, strength: float) -> Callable[[], None]:
        """Gives plain models what a file holds; returns what takes it away again.

        What is returned is a `functools.partial`, no closure: a copy of it takes the change away from copied models.

        Raises:
            VectorFitError: the file is damaged, or of another base; the models are as they were.
        """

    def after_update(self, trained: Trained, step: int) -> None:  # noqa: B027 - most have nothing to do
        """Called after the optimizer's update `step` (from 1), while its gradients are still there."""

    def state(self, trained: Trained) -> dict[str, Any]:
        """What a checkpoint has to keep beside the parameters."""
        return {}

    def load_state(self, trained: Trained, state: Mapping[str, Any]) -> None:  # noqa: B027 - most keep none
        """Takes up what `state` gave."""


def is_inside(path: str, modules: tuple[str, ...]) -> bool:
    """Whether a path is one of these modules' or of something in them."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def layers_inside(models: Models, modules: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of the layers that could be adapted in these modules, as `VectorFitConfig` excludes them."""
    from vectorfit.layers import layer_for
    from vectorfit.modules import named_modules

    return tuple(
        path for path, module in named_modules(models) if is_inside(path, modules) and layer_for(module) is not None
    )


def parameters_of(models: Models) -> dict[str, nn.Parameter]:
    """All parameters of one or several models, by name."""
    from vectorfit.modules import join, named_models

    return {
        join(prefix, name): parameter
        for prefix, model in named_models(models).items()
        for name, parameter in model.named_parameters()
    }


def modules_of(models: Models) -> dict[str, nn.Module]:
    """All modules of one or several models, by path, inside layers that a method wraps too."""
    from vectorfit.modules import join, named_models

    return {
        join(prefix, path): module
        for prefix, model in named_models(models).items()
        for path, module in model.named_modules()
    }


def _imported(place: str) -> Any:
    return pkgutil.resolve_name(f"{__package__}.{place}")
