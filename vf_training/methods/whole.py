"""Full fine-tuning, and training a task's head alone."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vectorfit.modules import Models

from .change_file import ChangeFile, add
from .method import Options, Trained, is_inside, parameters_of


class FullFineTuning(ChangeFile):
    """Trains every parameter. The file holds each one's change from the base, in float16."""

    def add_parameters(self, trained: Trained, options: Options) -> None:
        parameters = parameters_of(trained.models)
        trained.base = {name: value.detach().cpu().clone() for name, value in parameters.items()}
        for name, parameter in parameters.items():
            parameter.requires_grad_(not is_inside(name, options.exclude))

    def contents(self, trained: Trained) -> dict[str, Tensor]:
        return {
            name: (value.detach().cpu() - trained.base[name]).to(torch.float16)
            for name, value in self.parameters(trained).items()
            if not trained.in_head(name)
        }

    def apply(self, models: Models, tensors: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
        return add(models, tensors, strength)


class HeadAlone(ChangeFile):
    """Trains nothing but the modules that the task brings along."""

    def add_parameters(self, trained: Trained, options: Options) -> None:
        pass

    def contents(self, trained: Trained) -> dict[str, Tensor]:
        return {}

    def apply(self, models: Models, tensors: Mapping[str, Tensor], strength: float) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    """What takes away no change."""


FULL, HEAD = FullFineTuning(), HeadAlone()
