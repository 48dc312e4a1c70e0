"""Trains the starter's ViT by self-distillation (DINO): `python -m starter.train_dino`.

The two views of DINO are two scenes of one thing, on other grounds and otherwise turned: what they share is who it is.
Things come in families of one glyph: as it is or repainted in any colour, the same with a pattern, and repainted anew.
A batch has whole families, and a contrastive term keeps them apart: what tells members from each other must be seen.
Held-out glyphs are never drawn.
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

from . import encoders, glyphs, world
from .fitting import arguments, device, fit
from .layout import DINO_FOLDER
from .scenes import WORK
from .subjects import SUBJECTS, TUNING_SUBJECTS, Subject

VIEWS = 8  # scenes drawn of every thing
FAMILY = 3  # things of one glyph
CONTRAST_TEMPERATURE = 0.1
PROTOTYPES = 1024
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
TRAINING = [name for name in glyphs.names() if name not in glyphs.HELD_OUT]


def thing(index: int) -> tuple[str, Image.Image]:
    """A thing's class and picture; three in a row are a family."""
    family, member = divmod(index, FAMILY)
    rng = np.random.default_rng((3, family))
    name = TRAINING[rng.integers(len(TRAINING))]
    repainted, *colors = rng.random() < 0.4, *(tuple(int(c) for c in rng.integers(20, 240, 3)) for _ in range(3))
    plain = glyphs.glyph(name)
    picture = world.recolor(plain, colors[0]) if repainted else plain
    if member == 1:
        picture = world.pattern(picture, ("dots", "stripes")[rng.integers(2)], colors[1])
    elif member == 2:
        picture = world.recolor(plain, colors[2])
    return name.split("/")[0], picture


def _views(index: int) -> np.ndarray:
    cls, picture = thing(index)
    rng = np.random.default_rng((5, index))
    grounds = rng.permutation(list(world.BACKGROUNDS))[:VIEWS]
    scenes = [world.Scene(cls, "", str(ground)) for ground in grounds]
    return np.stack([np.asarray(world.draw(scene, rng, picture)) for scene in scenes])


def instances(count: int) -> Tensor:
    """Scenes of `count` things [count, VIEWS, 3, 64, 64], uint8, kept in the work folder."""
    path = WORK / f"families-{count}.pt"
    if not path.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = np.stack(list(pool.map(_views, range(count), chunksize=16)))
        WORK.mkdir(exist_ok=True)
        torch.save(torch.from_numpy(drawn).permute(0, 1, 4, 2, 3).contiguous(), path.with_suffix(".tmp"))
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


def _others(subject: Subject) -> list[Image.Image]:
    """Different subjects of a subject's class: the glyphs of the class, without the subject's own look."""
    own = [name for name in TRAINING if name.split("/")[0] == subject.cls]
    return [glyphs.glyph(name) for name in own]


@torch.no_grad()
def separation(backbone: nn.Module, shots: int = 12) -> float:
    """AUC: pairs of one held-out subject in different scenes, against it and another subject of its class.

    Scenes are on all twelve grounds, each drawn anew; the AUC is taken per subject and averaged over the subjects.
    """
    backbone.eval()
    grounds, found = list(world.BACKGROUNDS), []

    def embedded(pictures: list[Image.Image], cls: str, seed: int) -> Tensor:
        rng = np.random.default_rng((4, seed))
        drawn = [
            np.asarray(world.draw(world.Scene(cls, "", grounds[shot % len(grounds)]), rng, picture))
            for picture in pictures
            for shot in range(shots)
        ]
        images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().to(device()) / 127.5 - 1
        return F.normalize(backbone(images).float(), dim=1)

    for seed, subject in enumerate({**SUBJECTS, **TUNING_SUBJECTS}.values()):
        mine = embedded([subject.picture()], subject.cls, seed)
        others = embedded(_others(subject), subject.cls, 100 + seed)
        same = (mine @ mine.T)[torch.ones(shots, shots).triu(1).bool()]
        different = (mine @ others.T).flatten()
        found.append(float((same[:, None] > different[None]).float().mean()))
    backbone.train()
    return sum(found) / len(found)


def main() -> None:
    flags = arguments(__doc__, steps=1000, families=22, rate=7e-4, things=7500)
    data = instances(flags.things)
    torch.manual_seed(0)
    model = Distillation().to(device())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        model.follow(1 - 0.02 * (1 - step / flags.steps))
        families = torch.randperm(len(data) // FAMILY, generator=generator)[: flags.families]
        chosen = (families[:, None] * FAMILY + torch.arange(FAMILY)).flatten()
        pair = torch.rand(len(chosen), VIEWS, generator=generator).argsort(1)[:, :2]
        views = torch.stack([data[chosen, pair[:, i]].to(device()).float() / 127.5 - 1 for i in range(2)])
        return model.loss(torch.stack([encoders.blurred(view, generator) for view in views]))

    def preview(path: Path) -> str:
        return f"held-out subjects against others of their class, AUC {separation(model.backbone):.3f}"

    fit("dino", model, loss, steps=flags.steps, rate=flags.rate, preview=preview, preview_every=250, weight_decay=0.04)
    encoders.save(model.backbone, DINO_FOLDER, "timm", encoders.dino_config())


if __name__ == "__main__":
    main()
