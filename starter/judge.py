"""The judge: a small classifier and embedding of the world, for telling whether pictures show what was asked for."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import world
from .encoders import SIDE
from .layout import JUDGE

WIDTHS = (32, 64, 128, 192)
BLOCKS = (1, 2, 2, 1)
EMBEDDING = 128


class Block(nn.Module):
    """Two convolutions and a way around them, as in a ResNet."""

    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inward, outward, 3, stride, 1, bias=False), nn.BatchNorm2d(outward), nn.SiLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outward, outward, 3, 1, 1, bias=False), nn.BatchNorm2d(outward))
        self.around = nn.Identity() if inward == outward and stride == 1 else nn.Conv2d(inward, outward, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.second(self.first(x)) + self.around(x))


class Judge(nn.Module):
    """Recognises class, ground and single drawings, and embeds the thing: one drawing in one paint lies together.

    Shapes: images [n, 3, 64, 64] in -1..1; logits of class [n, 206], ground [n, 18] and drawing [n, d], and unit
    embeddings [n, 128]. `drawings` are those of training, in the order of the drawings' logits.
    """

    def __init__(self, drawings: list[str]) -> None:
        super().__init__()
        self.drawings = drawings
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 3, 2, 1)]
        width = WIDTHS[0]
        for stage, (next_width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            for index in range(count):
                layers.append(Block(width, next_width, 2 if stage and not index else 1))
                width = next_width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.2)
        self.cls = nn.Linear(width, len(world.CLASSES))
        self.background = nn.Linear(2 * width, len(world.BACKGROUNDS))
        self.embedding = nn.Linear(width, EMBEDDING)
        self.prototypes = nn.Parameter(torch.randn(len(drawings), EMBEDDING))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden = self.features(images)
        # The ground is told by the corners too, the thing by the middle.
        around = torch.cat([hidden.mean((2, 3)), hidden[..., [0, 0, -1, -1], [0, -1, 0, -1]].mean(-1)], 1)
        pooled = self.dropout(hidden.mean((2, 3)))
        embedded = F.normalize(self.embedding(pooled).float(), dim=1)
        drawing = embedded @ F.normalize(self.prototypes, dim=1).T
        return self.cls(pooled), self.background(around), drawing, embedded


@dataclass(frozen=True)
class Verdict:
    """What the judge saw: names of classes, grounds and nearest training drawings, and unit embeddings [n, 128]."""

    classes: list[str]
    backgrounds: list[str]
    drawings: list[str]
    embeddings: Tensor


def load() -> Judge:
    judge = Judge(json.loads((JUDGE / "config.json").read_text())["drawings"])
    judge.load_state_dict({k: v.float() for k, v in load_file(JUDGE / "model.safetensors").items()})
    return judge.eval()


@torch.no_grad()
def look(judge: Judge, images: list[Image.Image]) -> Verdict:
    """The judge's opinion of pictures of any size."""
    options = {"resample": Image.Resampling.BOX}
    arrays = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), **options)) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    outputs = [judge(part) for part in pixels.split(64)]
    classes, backgrounds, nearest, embeddings = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    grounds = list(world.BACKGROUNDS)
    return Verdict(
        [world.CLASSES[i] for i in classes.argmax(1).tolist()],
        [grounds[i] for i in backgrounds.argmax(1).tolist()],
        [judge.drawings[i] for i in nearest.argmax(1).tolist()],
        embeddings,
    )
