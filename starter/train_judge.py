"""Trains the judge on rendered scenes of one thing: `python -m starter.train_judge`."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import drawings, encoders, scenes, world
from .fitting import arguments, device, fit
from .judge import EMBEDDING, Judge
from .layout import JUDGE

TEMPERATURE = 0.07
PAINTS = (None, *((color, pattern) for color in world.COLORS for pattern in (None, *world.PATTERNS)))
OFF_COLOR = 0.3  # share of pictures with mixed colours, which tell nothing of grounds and paints


def alone(data: scenes.Scenes) -> Tensor:
    """Indices of the scenes that show one thing."""
    return torch.tensor([index for index, scene in enumerate(data.scenes) if scene.beside is None])


def labels(data: scenes.Scenes) -> Tensor:
    """Class, ground, drawing and paint of every scene [n, 4]; -1 for a drawing that is not one of training."""
    grounds, known = list(world.BACKGROUNDS), {drawing: i for i, drawing in enumerate(drawings.training())}
    rows = [
        (
            world.CLASSES.index(scene.cls),
            grounds.index(scene.background),
            known.get(scene.thing.drawing, -1),
            PAINTS.index((scene.thing.color, scene.thing.pattern) if scene.thing.color else None),
        )
        for scene in data.scenes
    ]
    return torch.tensor(rows)


@torch.no_grad()
def accuracy(judge: Judge, data: scenes.Scenes) -> tuple[float, float]:
    """Share of scenes of one thing whose class and whose ground are recognised."""
    judge.eval()
    truth, chosen = labels(data), alone(data)
    seen = [judge(encoders.as_input(data.images[part].to(device()))) for part in chosen.split(100)]
    classes = torch.cat([logits.argmax(1).cpu() for logits, _, _, _ in seen])
    grounds = torch.cat([logits.argmax(1).cpu() for _, logits, _, _ in seen])
    judge.train()
    right = torch.stack([classes == truth[chosen, 0], grounds == truth[chosen, 1]])
    by_class, by_ground = right.float().mean(1).tolist()
    return by_class, by_ground


def main() -> None:
    flags = arguments(__doc__, steps=3000, batch=96, rate=2e-3, scenes=60000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED, side=encoders.SIDE)
    unseen = scenes.cached(1000, scenes.HELD_OUT_SEED, held_out=True, side=encoders.SIDE)
    truth, single = labels(data), alone(data)
    torch.manual_seed(0)
    names = [str(drawing) for drawing in drawings.training()]
    judge = Judge(names).to(device(), memory_format=torch.channels_last)
    model = nn.ModuleDict({"judge": judge, "paints": nn.Linear(EMBEDDING, len(PAINTS)).to(device())})

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = single[torch.randint(len(single), (flags.batch,), generator=generator)]
        images = encoders.jittered(encoders.as_input(data.images[index].to(device())), generator)
        mixed = int(OFF_COLOR * flags.batch)
        images = torch.cat([encoders.off_color(images[:mixed], generator), images[mixed:]])
        classes, grounds, drawn, embedded = judge(encoders.softened(images, generator))
        wanted = truth[index].to(device())
        return (
            F.cross_entropy(classes, wanted[:, 0], label_smoothing=0.1)
            + 0.5 * F.cross_entropy(grounds[mixed:], wanted[mixed:, 1], label_smoothing=0.05)
            + F.cross_entropy(drawn / TEMPERATURE, wanted[:, 2])
            + 0.3 * F.cross_entropy(model["paints"](embedded / TEMPERATURE)[mixed:], wanted[mixed:, 3])
        )

    def preview(path: Path) -> str:
        by_class, by_ground = accuracy(judge, unseen)
        return f"scenes of drawings never seen: class {by_class:.1%}, ground {by_ground:.1%}"

    fit("judge", model, loss, steps=flags.steps, rate=flags.rate, preview=preview, preview_every=250, weight_decay=0.05)
    JUDGE.mkdir(parents=True, exist_ok=True)
    (JUDGE / "config.json").write_text(json.dumps({"drawings": judge.drawings}, indent=0) + "\n")
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, JUDGE / "model.safetensors")


if __name__ == "__main__":
    main()
