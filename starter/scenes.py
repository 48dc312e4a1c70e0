"""Rendered scenes in bulk: pictures, captions and what they show, drawn once and kept in the work folder."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from . import drawings, world
from .drawings import Drawing
from .layout import WORK

TRAINING_SEED, HELD_OUT_SEED = 0, 1


@dataclass(frozen=True)
class Scenes:
    """`images` [n, 3, side, side] uint8, `captions` n strings, `scenes` what each one shows."""

    images: torch.Tensor
    captions: list[str]
    scenes: list[world.Scene]

    def batch(self, index: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pictures [b, 3, side, side] in -1..1."""
        return self.images[index].to(device, non_blocking=True).float() / 127.5 - 1


@cache
def known(held_out: bool) -> dict[str, list[Drawing]]:
    """Class -> its drawings: those of training, or those that no training sees."""
    found: dict[str, list[Drawing]] = {cls: [] for cls in world.CLASSES}
    for drawing in drawings.held_out() if held_out else drawings.training():
        found[drawing.noun].append(drawing)
    return found


def _render_one(index: int, seed: int, held_out: bool) -> tuple[np.ndarray, str, world.Scene]:
    rng = np.random.default_rng((seed, index))
    scene = world.sample_scene(rng, known(held_out))
    text = world.caption(scene, rng)
    return np.asarray(world.draw(scene, rng)), text, scene


def render(count: int, seed: int, held_out: bool = False) -> Scenes:
    """Draws `count` scenes, of training drawings or of held-out ones; scene i depends on (seed, i) alone."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(partial(_render_one, seed=seed, held_out=held_out), range(count), chunksize=64))
    images, captions, scenes = zip(*drawn, strict=True)
    return Scenes(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), list(captions), list(scenes))


def cached(count: int, seed: int, held_out: bool = False, side: int = world.SIZE) -> Scenes:
    """`render`, kept in the work folder for the next script that asks; a smaller `side` averages the pixels."""
    shrink = world.SIZE // side
    path = WORK / f"scenes-{seed}-{count}{'-held-out' if held_out else ''}{f'-{side}' if shrink > 1 else ''}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)  # our own cache, never a file from elsewhere
    scenes = cached(count, seed, held_out) if shrink > 1 else render(count, seed, held_out)
    if shrink > 1:
        small = [
            torch.nn.functional.avg_pool2d(part.float(), shrink).round().byte() for part in scenes.images.split(500)
        ]
        scenes = Scenes(torch.cat(small), scenes.captions, scenes.scenes)
    WORK.mkdir(exist_ok=True)
    torch.save(scenes, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    return scenes
