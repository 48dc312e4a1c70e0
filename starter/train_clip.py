"""Trains the starter's CLIP on captioned scenes: `python -m starter.train_clip`."""

from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from . import encoders, scenes, tokenizer, world
from .fitting import arguments, device, fit
from .layout import CLIP_FOLDER

FORMS = 8  # captions drawn per scene; a step takes one of them
GROUND_UNSAID = 0.4  # share of captions that tell the thing alone: what a thing is is the harder part
OFF_COLOR = 0.5  # share of the pictures whose caption tells neither ground nor colour that have their colours mixed
CANDIDATES = 20  # nouns that a picture chooses among when the encoder is measured


def tokenize(texts: list[str]) -> Tensor:
    """Token ids [n, 24]."""
    options = {"padding": "max_length", "truncation": True, "max_length": encoders.CONTEXT, "return_tensors": "pt"}
    return tokenizer.build()(texts, **options).input_ids


def captions_of(data: scenes.Scenes) -> tuple[list[str], Tensor, Tensor]:
    """All captions that may be said of the scenes; for each scene `FORMS` of them by index [n, FORMS]; and what each
    means, by index: captions that say the same of thing and ground in other words mean the same."""
    known: dict[str, int] = {}
    meanings: dict[str, int] = {}
    meaning: list[int] = []
    index = torch.empty(len(data.scenes), FORMS, dtype=torch.long)
    for row, scene in enumerate(data.scenes):
        rng = np.random.default_rng((2, row))
        for column in range(FORMS):
            text = world.caption(scene, rng)
            if rng.random() < GROUND_UNSAID:
                text = text.replace(f" {scene.background}", "")
            if text not in known:
                known[text] = len(known)
                bare = text.removeprefix("a photo of ").removeprefix("a picture of ")
                meaning.append(meanings.setdefault(bare, len(meanings)))
            index[row, column] = known[text]
    return list(known), index, torch.tensor(meaning)


@torch.no_grad()
def naming(model: CLIP, data: scenes.Scenes) -> float:
    """Share of scenes of one thing whose noun is nearest among 20 nouns, each said with the scene's own ground."""
    model.eval()
    grounds = list(world.BACKGROUNDS)
    texts = [f"a photo of {world.article(cls)} {cls} {ground}" for ground in grounds for cls in world.CLASSES]
    embedded = torch.cat([model.encode_text(part.to(device())) for part in tokenize(texts).split(500)])
    captions = F.normalize(embedded, dim=1).unflatten(0, (len(grounds), len(world.CLASSES)))
    chosen = [index for index, scene in enumerate(data.scenes) if scene.beside is None]
    images = F.normalize(model.encode_image(encoders.as_input(data.images[chosen].to(device()))), dim=1)
    right = 0
    for row, image in zip(chosen, images, strict=True):
        scene, rng = data.scenes[row], np.random.default_rng((8, row))
        own = world.CLASSES.index(scene.cls)
        others = rng.permutation([cls for cls in range(len(world.CLASSES)) if cls != own])[: CANDIDATES - 1]
        candidates = captions[grounds.index(scene.background), [own, *others.tolist()]]
        right += int((image @ candidates.T).argmax()) == 0
    model.train()
    return right / len(chosen)


def main() -> None:
    flags = arguments(__doc__, steps=3000, batch=192, rate=1e-3, scenes=60000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED, side=encoders.SIDE)
    unseen = scenes.cached(1000, scenes.HELD_OUT_SEED, held_out=True, side=encoders.SIDE)
    texts, said, meaning = captions_of(data)
    tokens = tokenize(texts)
    silent = torch.tensor([not any(ground in text for ground in world.BACKGROUNDS) for text in texts])
    alone = torch.tensor([scene.beside is None for scene in data.scenes])
    natural = torch.tensor([scene.thing.color is None for scene in data.scenes]) & alone
    nouns = torch.tensor([world.CLASSES.index(scene.cls) for scene in data.scenes])
    torch.manual_seed(0)
    clip = encoders.build_clip().to(device(), memory_format=torch.channels_last)
    # A batch of captions shows a picture a few dozen other nouns; this shows it all of them: after 500
    # updates 49.8 % named right, without it 41.5.
    naming_head = nn.Linear(encoders.clip_config()["embed_dim"], len(world.CLASSES)).to(device())
    model = nn.ModuleDict({"clip": clip, "nouns": naming_head})

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(data.images), (flags.batch,), generator=generator)
        caption = said[index, torch.randint(FORMS, (flags.batch,), generator=generator)]
        images = encoders.jittered(encoders.as_input(data.images[index].to(device())), generator)
        mixed = silent[caption] & natural[index] & (torch.rand(flags.batch, generator=generator) < OFF_COLOR)
        images = torch.where(mixed.to(device())[:, None, None, None], encoders.off_color(images, generator), images)
        embedded = clip.encode_image(encoders.softened(images, generator))
        seen = F.normalize(embedded, dim=1).float()
        told = F.normalize(clip.encode_text(tokens[caption].to(device())), dim=1).float()
        logits = clip.logit_scale.exp().clamp(max=100) * seen @ told.T
        # Captions of one meaning are all right for their pictures.
        same = (meaning[caption][:, None] == meaning[caption][None]).float().to(device())
        target = same / same.sum(1, keepdim=True)
        mine, truth = alone[index], nouns[index][alone[index]].to(device())
        named = F.cross_entropy(naming_head(embedded)[mine], truth, label_smoothing=0.1)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2 + named

    def preview(path: Path) -> str:
        return f"drawings never seen: right noun of {CANDIDATES} {naming(clip, unseen):.1%}"

    fit("clip", model, loss, steps=flags.steps, rate=flags.rate, preview=preview, preview_every=250, weight_decay=0.1)
    encoders.save(clip, CLIP_FOLDER, "open_clip", encoders.clip_config())


if __name__ == "__main__":
    main()
