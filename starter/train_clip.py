"""Trains the starter's CLIP on captioned scenes: `python -m starter.train_clip`."""

from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor
from torch.nn import functional as F

from . import encoders, scenes, tokenizer, world
from .fitting import arguments, device, fit
from .layout import CLIP_FOLDER

FORMS = 8  # captions drawn per scene; a step takes one of them
CANDIDATES = 50  # distinct captions that a picture chooses among when retrieval is measured


def tokenize(texts: list[str]) -> Tensor:
    """Token ids [n, 24]."""
    options = {"padding": "max_length", "truncation": True, "max_length": encoders.CONTEXT, "return_tensors": "pt"}
    return tokenizer.build()(texts, **options).input_ids


def captions_of(data: scenes.Scenes) -> tuple[list[str], Tensor]:
    """All captions that may be said of the scenes, and for each scene `FORMS` of them by index [n, FORMS]."""
    known: dict[str, int] = {}
    index = torch.empty(len(data.scenes), FORMS, dtype=torch.long)
    for row, scene in enumerate(data.scenes):
        rng = np.random.default_rng((2, row))
        for column in range(FORMS):
            index[row, column] = known.setdefault(world.caption(scene, rng), len(known))
    return list(known), index


@torch.no_grad()
def retrieval(model: CLIP, held_out: scenes.Scenes) -> float:
    """Share of held-out scenes whose own caption is the nearest of 50 distinct ones that tell the ground."""
    model.eval()
    images = F.normalize(model.encode_image(held_out.batch(torch.arange(len(held_out.images)), device())), dim=1)
    texts = [f"a photo of {world.described(scene)} {scene.background}" for scene in held_out.scenes]
    distinct = sorted(set(texts))
    embedded = F.normalize(model.encode_text(tokenize(distinct).to(device())), dim=1)
    rng, right = np.random.default_rng(0), 0
    for image, text in zip(images, texts, strict=True):
        own = distinct.index(text)
        others = rng.permutation([i for i in range(len(distinct)) if i != own])[: CANDIDATES - 1]
        chosen = torch.tensor([own, *others])
        right += int((image @ embedded[chosen].T).argmax()) == 0
    model.train()
    return right / len(texts)


def main() -> None:
    flags = arguments(__doc__, steps=1000, batch=192, rate=1e-3, scenes=50000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED)
    held_out = scenes.cached(1000, scenes.HELD_OUT_SEED)
    texts, said = captions_of(data)
    tokens = tokenize(texts)
    torch.manual_seed(0)
    model = encoders.build_clip().to(device())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.images), (flags.batch,), generator=generator)
        caption = said[index, torch.randint(FORMS, (flags.batch,), generator=generator)]
        images = encoders.blurred(data.batch(index, device()), generator)
        seen = F.normalize(model.encode_image(images), dim=1).float()
        told = F.normalize(model.encode_text(tokens[caption].to(device())), dim=1).float()
        logits = model.logit_scale.exp().clamp(max=100) * seen @ told.T
        # Equal captions are all right for their pictures.
        same = (caption[:, None] == caption[None]).float().to(device())
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def preview(path: Path) -> str:
        return f"retrieval among {CANDIDATES}: {retrieval(model, held_out):.1%}"

    fit("clip", model, loss, steps=flags.steps, rate=flags.rate, preview=preview, preview_every=250, weight_decay=0.05)
    encoders.save(model, CLIP_FOLDER, "open_clip", encoders.clip_config())


if __name__ == "__main__":
    main()
