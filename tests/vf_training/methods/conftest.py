"""The small model that the committed old files belong to. Its weights are exact fractions: the same everywhere."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

SIZE, BETWEEN, CLASSES = 8, 12, 3
HEAD = ("classifier",)


class Sublayer(nn.Module):
    def __init__(self, name: str, inner: int, outer: int) -> None:
        super().__init__()
        setattr(self, name, nn.Linear(inner, outer))


class Block(nn.Module):
    """A transformer block's linear layers, named as BERT names them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(SIZE, SIZE), "output": Sublayer("dense", SIZE, SIZE)})
        self.intermediate, self.output = Sublayer("dense", SIZE, BETWEEN), Sublayer("dense", BETWEEN, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention["output"].dense(self.attention["query"](x))
        return x + self.output.dense(torch.relu(self.intermediate.dense(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(), Block()])
        self.classifier = nn.Linear(SIZE, CLASSES)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(fractions(parameter.shape, number))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layer:
            x = block(x)
        return self.classifier(x)


def fractions(shape: torch.Size, number: int) -> Tensor:
    """Numbers between -0.25 and 0.25 that float32 holds exactly, other ones for each `number`."""
    count = shape.numel()
    return ((torch.arange(count) * 7919 + 104729 * (number + 1)) % 1025 - 512).float().reshape(shape) / 2048


@torch.no_grad()
def train(parameters: dict[str, nn.Parameter]) -> None:
    """Moves what a method trains by known amounts."""
    for number, (_, parameter) in enumerate(sorted(parameters.items())):
        parameter.add_(fractions(parameter.shape, 100 + number))


@pytest.fixture
def old():
    """`Model`, its `HEAD`, and `train`, which moves parameters by known amounts."""
    return SimpleNamespace(Model=Model, HEAD=HEAD, train=train)
