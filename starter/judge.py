"""The judge: a small classifier and embedding of the world, for telling whether pictures show what was asked for."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import glyphs, world
from .layout import JUDGE

WIDTHS = (32, 64, 128, 192)
IDENTITIES = tuple(name for name in glyphs.names() if name not in glyphs.HELD_OUT)
COLOR_NAMES = ("natural", *world.COLORS)
EMBEDDING = 128


class Judge(nn.Module):
    """Recognises class and background, and embeds the thing so that one glyph in one colour lies together.

    Shapes: images [n, 3, 64, 64] in -1..1; logits of class [n, 30] and background [n, 12] and unit embeddings [n, 128].
    """

    def __init__(self) -> None:
        super().__init__()
        blocks, width = [], 3
        for next_width in WIDTHS:
            blocks += [nn.Conv2d(width, next_width, 3, stride=2, padding=1), nn.GroupNorm(8, next_width), nn.SiLU()]
            blocks += [nn.Conv2d(next_width, next_width, 3, padding=1), nn.GroupNorm(8, next_width), nn.SiLU()]
            width = next_width
        self.features = nn.Sequential(*blocks)
        self.neck = nn.Sequential(nn.Linear(width * 16, 256), nn.SiLU())
        self.cls = nn.Linear(256, len(world.CLASSES))
        self.background = nn.Linear(256, len(world.BACKGROUNDS))
        self.embedding = nn.Linear(256, EMBEDDING)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.neck(self.features(images).flatten(1))
        return self.cls(hidden), self.background(hidden), F.normalize(self.embedding(hidden), dim=1)


@dataclass(frozen=True)
class Verdict:
    """What the judge saw: class and background names, and unit embeddings [n, 128]."""

    classes: list[str]
    backgrounds: list[str]
    embeddings: Tensor


def load() -> Judge:
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(JUDGE / "model.safetensors").items()})
    return judge.eval()


@torch.no_grad()
def look(judge: Judge, images: list[Image.Image]) -> Verdict:
    """The judge's opinion of pictures of any size."""
    arrays = [np.asarray(image.convert("RGB").resize((world.SIZE, world.SIZE))) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
    classes, backgrounds, embeddings = judge(pixels)
    names = list(world.BACKGROUNDS)
    return Verdict(
        [world.CLASSES[i] for i in classes.argmax(1).tolist()],
        [names[i] for i in backgrounds.argmax(1).tolist()],
        embeddings,
    )
