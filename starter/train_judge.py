"""Trains the judge on rendered scenes: `python -m starter.train_judge`."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import scenes, world
from .fitting import arguments, device, fit
from .judge import COLOR_NAMES, EMBEDDING, IDENTITIES, Judge
from .layout import JUDGE

TEMPERATURE = 0.07


def labels(data: scenes.Scenes) -> Tensor:
    """Class, background and identity (glyph and colour) of every scene [n, 3]."""
    backgrounds = list(world.BACKGROUNDS)
    rows = [
        (
            world.CLASSES.index(scene.cls),
            backgrounds.index(scene.background),
            IDENTITIES.index(scene.glyph) * len(COLOR_NAMES) + COLOR_NAMES.index(scene.color or "natural"),
        )
        for scene in data.scenes
    ]
    return torch.tensor(rows)


@torch.no_grad()
def accuracy(judge: Judge, held_out: scenes.Scenes) -> tuple[float, float]:
    """Share of held-out scenes whose class and whose background are recognised."""
    truth = labels(held_out)
    classes, backgrounds, _ = judge(held_out.batch(torch.arange(len(truth)), device()))
    right = torch.stack([classes.argmax(1).cpu() == truth[:, 0], backgrounds.argmax(1).cpu() == truth[:, 1]])
    by_class, by_background = right.float().mean(1).tolist()
    return by_class, by_background


def _preview(judge: Judge, held_out: scenes.Scenes, path: Path) -> str:
    by_class, by_background = accuracy(judge, held_out)
    return f"held-out scenes: class {by_class:.1%}, background {by_background:.1%}"


def main() -> None:
    flags = arguments(__doc__, steps=1500, batch=32, rate=2e-3, scenes=20000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED)
    held_out = scenes.cached(1000, scenes.HELD_OUT_SEED)
    truth = labels(data)
    torch.manual_seed(0)
    judge = Judge().to(device())
    prototypes = nn.Parameter(torch.randn(len(IDENTITIES) * len(COLOR_NAMES), EMBEDDING, device=device()))
    model = nn.ModuleDict({"judge": judge, "prototypes": nn.ParameterList([prototypes])})

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(truth), (flags.batch,), generator=generator)
        images, wanted = data.batch(index, device()), truth[index].to(device())
        # Blur and noise of the strength that the latents' decoder adds: the judge must look at shapes, not at edges.
        if torch.rand(1, generator=generator) < 0.5:
            images = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
        images = images + 0.08 * torch.randn(images.shape, generator=generator).to(device())
        classes, backgrounds, embeddings = judge(images)
        identities = embeddings @ F.normalize(prototypes, dim=1).T / TEMPERATURE
        return (
            F.cross_entropy(classes, wanted[:, 0], label_smoothing=0.05)
            + F.cross_entropy(backgrounds, wanted[:, 1], label_smoothing=0.05)
            + F.cross_entropy(identities, wanted[:, 2])
        )

    fit(
        "judge",
        model,
        loss,
        steps=flags.steps,
        rate=flags.rate,
        preview=lambda path: _preview(judge, held_out, path),
        preview_every=500,
    )
    JUDGE.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, JUDGE / "model.safetensors")


if __name__ == "__main__":
    main()
