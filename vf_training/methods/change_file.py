"""The file of LoRA, adapters, full fine-tuning and heads.

It is the subject file's container with `vectorfit.baseline`, the method's name. It holds what the method's `contents`
says, and the modules trained whole (`vectorfit.modules_to_save`) by their own names. `docs/file-format.md` lists all.
"""

import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vectorfit import VectorFitError, container
from vectorfit.atomic import PathLike
from vectorfit.container import PREFIX
from vectorfit.fingerprint import canonical_name, tensors_sha256
from vectorfit.modules import Models

from .method import Options, Technique, Trained, parameters_of

BASELINE = PREFIX + "baseline"  # the method's name; a subject file has no such key


class ChangeFile(Technique):
    """A technique whose file holds a change of the base, verified against the base's weights."""

    # Whether a file belongs to the whole base, or to the layers alone that it changes.
    needs_whole_base = True

    def insert(self, trained: Trained, options: Options) -> None:
        for model in trained.models.values():
            model.requires_grad_(False)
        layers = {canonical_name(layer.path) for layer in trained.plan.layers}
        heads = tuple(canonical_name(head) for head in trained.heads)
        trained.base_sha256 = self.base_sha256(trained.models, layers, heads)
        self.add_parameters(trained, options)

    @abstractmethod
    def add_parameters(self, trained: Trained, options: Options) -> None:
        """Puts the parameters into `trained.models`, all of whose own are frozen, and makes them trainable."""

    @abstractmethod
    def contents(self, trained: Trained) -> dict[str, Tensor]:
        """What the file holds beside the modules trained whole, by the names that `apply` reads."""

    @abstractmethod
    def apply(self, models: Models, tensors: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
        """Gives plain models the change of a file's `contents`, by canonical name; returns what takes it away again.

        Raises:
            VectorFitError: the contents do not fit the models, which are left as they were.
        """

    def base_sha256(self, models: Models, layers: set[str], heads: tuple[str, ...]) -> str:
        """SHA-256 over the plain base's weights that a file belongs to, by canonical name, in float32.

        `layers` are the canonical paths of the layers that the file changes; `heads` are no part of the base.
        """
        weights = {}
        for name, value in parameters_of(models).items():
            own = canonical_name(name)
            path, _, kind = own.rpartition(".")
            belongs = self.needs_whole_base or (path in layers and kind in ("weight", "bias"))
            if belongs and not _inside(own, heads):
                weights[own] = value.detach().float().cpu()
        return tensors_sha256(weights)

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
        heads = {name: value.detach() for name, value in self.parameters(trained).items() if trained.in_head(name)}
        tensors = {canonical_name(name): value for name, value in {**self.contents(trained), **heads}.items()}
        own = {
            "baseline": trained.method.name,
            "base_model": base_model,
            "base_revision": base_revision or "",
            "base_sha256": trained.base_sha256,
            "modules_to_save": json.dumps(sorted(canonical_name(path) for path in trained.heads)),
        }
        if write:
            container.write(path, tensors, own, metadata)

    def load(self, models: Models, path: PathLike, strength: float) -> Callable[[], None]:
        tensors, metadata = container.read(path)
        if _is_of_a_task_of_0_1(metadata):
            tensors, heads = _modernised(tensors)
            warnings.warn(
                f"{path}: version 0.1.0 wrote no hash of its base; its shapes alone were checked", stacklevel=3
            )
        else:
            container.require_untouched(path, tensors, metadata)
            heads = tuple(container.heads_of(path, metadata))
            self._require_base(models, path, tensors, metadata, heads)
        change = {name: tensor for name, tensor in tensors.items() if not _inside(name, heads)}
        trained_whole = {name: tensor for name, tensor in tensors.items() if _inside(name, heads)}
        try:
            parameters = fitting(models, {name: tuple(value.shape) for name, value in trained_whole.items()})
            take_away = self.apply(models, change, strength)
        except VectorFitError as error:
            raise VectorFitError(f"{path}: {error}") from error
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        set_values(parameters, trained_whole)
        return partial(_undo, take_away, parameters, before)

    def _require_base(
        self,
        models: Models,
        path: PathLike,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        heads: tuple[str, ...],
    ) -> None:
        """Raises VectorFitError where the models are not those that the file was trained on."""
        mine: Any = models
        if not isinstance(models, nn.Module):  # of several models, those that the file has something for
            mine = {name: m for name, m in models.items() if any(key.startswith(f"{name}.") for key in tensors)}
        layers = {name.rpartition(".")[0] for name in tensors}
        if metadata.get(PREFIX + "base_sha256") != self.base_sha256(mine, layers, heads):
            base = metadata.get(PREFIX + "base_model")
            raise VectorFitError(
                f"{path}: made for other weights than these; it was trained on {base!r}, load it on that"
            )


def _undo(take_away: Callable[[], None], heads: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]) -> None:
    take_away()
    set_values(heads, before)


def _inside(name: str, paths: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _is_of_a_task_of_0_1(metadata: Mapping[str, str]) -> bool:
    return BASELINE in metadata and not {PREFIX + "vectors_sha256", PREFIX + "base_sha256"} & metadata.keys()


def _modernised(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a task's file of version 0.1.0 under today's names, and the heads in it.

    It holds the trained parameters under PEFT's names; of full fine-tuning changes in float16, heads in float32.
    """
    renamed = {
        name.removesuffix(".weight").removesuffix(".default") if ".lora_" in name else name: tensor
        for name, tensor in tensors.items()
    }
    heads = {
        name.rpartition(".")[0]
        for name, tensor in renamed.items()
        if ".lora_" not in name and ".adapter." not in name and tensor.dtype != torch.float16
    }
    return {canonical_name(name): tensor for name, tensor in renamed.items()}, tuple(map(canonical_name, sorted(heads)))


@torch.no_grad()
def add(models: Models, changes: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
    """Adds changes to parameters, by canonical name; returns what puts the parameters' own bits back.

    Raises:
        VectorFitError: the models have no such parameter, or one of another shape; none was changed.
    """
    parameters = fitting(models, {name: tuple(change.shape) for name, change in changes.items()})
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for name, change in changes.items():
        parameters[name].data += strength * change.to(parameters[name])
    return partial(set_values, parameters, before)


def set_values(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Gives parameters these values."""
    for name, value in values.items():
        parameters[name].data.copy_(value)


def fitting(models: Models, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, nn.Parameter]:
    """The parameters of these canonical names. Raises VectorFitError where one is absent or of another shape."""
    parameters = {canonical_name(name): parameter for name, parameter in parameters_of(models).items()}
    absent = [name for name in shapes if name not in parameters]
    if absent:
        raise VectorFitError(f"the model has no {absent[0]} ({len(absent)} such names); load it on its own base model")
    for name, shape in shapes.items():
        if tuple(parameters[name].shape) != shape:
            raise VectorFitError(f"{name} has shape {shape} in the file, expected {tuple(parameters[name].shape)}")
    return {name: parameters[name] for name in shapes}
