"""Trains the starter's ViT by self-distillation (DINO): `python -m starter.train_dino`.

The two views of DINO are two scenes of one thing, on other grounds and otherwise turned: what they share is who it is.
Things come in families of one noun: two drawings of it as they are, and the first one repainted or patterned. A batch
has whole families, and a contrastive term keeps them apart: what tells members from each other must be seen.
"""

import copy
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from . import drawings, encoders, scenes, world
from .fitting import arguments, device, fit
from .layout import DINO_FOLDER, WORK

VIEWS = 8  # scenes drawn of every thing
FAMILY = 3  # things of one noun
CONTRAST_TEMPERATURE = 0.1
PROTOTYPES = 1024
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04


def thing(index: int) -> Image.Image:
    """A thing's picture; three in a row are a family."""
    family, member = divmod(index, FAMILY)
    rng = np.random.default_rng((3, family))
    known = scenes.known(held_out=False)
    noun = world.CLASSES[rng.integers(len(world.CLASSES))]
    first, second = (drawings.picture(known[noun][i]) for i in rng.permutation(len(known[noun]))[:2])
    color = tuple(int(c) for c in rng.integers(20, 240, 3))
    if member == 1:
        return second
    if member == 2:
        kind = rng.integers(3)
        return world.recolor(first, color) if kind == 2 else world.pattern(first, world.PATTERNS[kind], color)
    return first


def _drawn(picture: Image.Image, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` scenes of a picture on grounds of their own [count, 3, 64, 64], uint8, at the encoders' size."""
    stand_in = world.Thing(next(iter(drawings.held_out())))  # the picture replaces it
    grounds = [str(ground) for ground in rng.permutation(list(world.BACKGROUNDS))[:count]]
    drawn = [world.draw(world.Scene(stand_in, ground), rng, picture).reduce(2) for ground in grounds]
    return np.stack([np.asarray(image) for image in drawn]).transpose(0, 3, 1, 2)


def _views(index: int) -> np.ndarray:
    return _drawn(thing(index), VIEWS, np.random.default_rng((5, index)))


def instances(count: int) -> Tensor:
    """Scenes of `count` things [count, VIEWS, 3, 64, 64], uint8, kept in the work folder."""
    path = WORK / f"families-{count}.pt"
    if not path.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = np.stack(list(pool.map(_views, range(count), chunksize=16)))
        WORK.mkdir(exist_ok=True)
        torch.save(torch.from_numpy(drawn).contiguous(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return torch.load(path, weights_only=True)


class Head(nn.Module):
    """DINO's projection head: a bottleneck on the sphere, and unit prototypes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 128))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 128))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Distillation(nn.Module):
    """A student that learns what its own moving average says of the other view."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = encoders.build_dino()
        self.student = nn.Sequential(self.backbone, Head(self.backbone.embed_dim))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(PROTOTYPES))

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.lerp_(theirs, 1 - momentum)

    def loss(self, views: Tensor) -> Tensor:
        """Views [2, b, 3, 64, 64]: cross-entropy between each view's student and the other view's teacher."""
        two, batch = views.shape[:2]
        features = self.backbone(views.flatten(0, 1))
        student = self.student[1](features).float().unflatten(0, (two, batch)) / STUDENT_TEMPERATURE
        with torch.no_grad():
            taught = self.teacher(views.flatten(0, 1)).float().unflatten(0, (two, batch))
            target = ((taught - self.center) / TEACHER_TEMPERATURE).softmax(-1)
            self.center.lerp_(taught.mean((0, 1)), 0.1)
        cross = -(target.flip(0) * student.log_softmax(-1)).sum(-1).mean()
        return cross + contrast(*features.float().unflatten(0, (two, batch)))


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """InfoNCE on the features themselves: of all things in the batch, a view's nearest must be its own thing.

    Self-distillation alone lets members of a family fall together: a patterned backpack became a plain one.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / CONTRAST_TEMPERATURE
    own = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2


@torch.no_grad()
def separation(backbone: nn.Module, shots: int = 12) -> float:
    """AUC: pairs of one held-out drawing in different scenes, against it and another drawing of its noun.

    Nouns with two held-out drawings or more; the AUC is taken per drawing and averaged.
    """
    backbone.eval()
    found = []
    for number, mine in enumerate(scenes.known(held_out=True).values()):
        if len(mine) < 2:
            continue
        pictures = [drawings.picture(drawing) for drawing in mine]
        shown = [_drawn(picture, shots, np.random.default_rng((4, number, i))) for i, picture in enumerate(pictures)]
        pixels = torch.from_numpy(np.concatenate(shown)).to(device()).float() / 127.5 - 1
        embedded = F.normalize(backbone(pixels).float(), dim=1).unflatten(0, (len(mine), shots))
        for i in range(len(mine)):
            same = (embedded[i] @ embedded[i].T)[torch.ones(shots, shots).triu(1).bool()]
            others = torch.cat([embedded[j] for j in range(len(mine)) if j != i])
            different = (embedded[i] @ others.T).flatten()
            found.append(float((same[:, None] > different[None]).float().mean()))
    backbone.train()
    return sum(found) / len(found)


def main() -> None:
    flags = arguments(__doc__, steps=2000, families=22, rate=7e-4, things=9000)
    data = instances(flags.things)
    torch.manual_seed(0)
    model = Distillation().to(device())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        model.follow(1 - 0.02 * (1 - step / flags.steps))
        families = torch.randperm(len(data) // FAMILY, generator=generator)[: flags.families]
        chosen = (families[:, None] * FAMILY + torch.arange(FAMILY)).flatten()
        pair = torch.rand(len(chosen), VIEWS, generator=generator).argsort(1)[:, :2]
        views = torch.stack([data[chosen, pair[:, i]].to(device()).float() / 127.5 - 1 for i in range(2)])
        return model.loss(torch.stack([encoders.softened(view, generator) for view in views]))

    def preview(path: Path) -> str:
        return f"held-out drawings against others of their noun, AUC {separation(model.backbone):.3f}"

    fit("dino", model, loss, steps=flags.steps, rate=flags.rate, preview=preview, preview_every=250, weight_decay=0.04)
    encoders.save(model.backbone, DINO_FOLDER, "timm", encoders.dino_config())


if __name__ == "__main__":
    main()
