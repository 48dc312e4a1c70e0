"""Rendered scenes in bulk: pictures, captions and labels, drawn once and kept in the work folder."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from . import world

WORK = Path(__file__).with_name("work")  # ignored by git: caches and resumable training states
TRAINING_SEED, HELD_OUT_SEED = 0, 1


@dataclass(frozen=True)
class Scenes:
    """`images` [n, 3, 64, 64] uint8, `captions` n strings, `scenes` what each one shows."""

    images: torch.Tensor
    captions: list[str]
    scenes: list[world.Scene]

    def batch(self, index: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Pictures [b, 3, 64, 64] in -1..1."""
        return self.images[index].to(device, non_blocking=True).float() / 127.5 - 1


def _render_one(index: int, seed: int) -> tuple[np.ndarray, str, world.Scene]:
    rng = np.random.default_rng((seed, index))
    scene = world.sample_scene(rng)
    text = world.caption(scene, rng)
    return np.asarray(world.draw(scene, rng)), text, scene


def render(count: int, seed: int) -> Scenes:
    """Draws `count` scenes; scene i depends on (seed, i) alone."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(partial(_render_one, seed=seed), range(count), chunksize=64))
    images, captions, scenes = zip(*drawn, strict=True)
    return Scenes(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), list(captions), list(scenes))


def cached(count: int, seed: int) -> Scenes:
    """`render`, kept in the work folder for the next script that asks."""
    path = WORK / f"scenes-{seed}-{count}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)  # our own cache, never a file from elsewhere
    scenes = render(count, seed)
    WORK.mkdir(exist_ok=True)
    torch.save(scenes, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    return scenes
