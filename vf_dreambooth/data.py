"""Latents, computed once, and the batch of each step, a pure function of the seed and the step."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from .families import family_of
from .images import to_tensor
from .randomness import shuffled_position, stacked_integers, stacked_normal


@dataclass(frozen=True)
class Latents:
    """Posterior mean and standard deviation [n * views, c, h, w] of n pictures, scaled as the UNet expects them."""

    mean: Tensor
    deviation: Tensor
    views: int = 1  # squares of each picture, one after the other

    def __len__(self) -> int:
        return len(self.mean) // self.views


@torch.no_grad()
def encode_images(pipe: DiffusionPipeline, pictures: list[list[Image.Image]], batch_size: int = 4) -> Latents:
    """The posterior of every view of every picture. All pictures have the same number of views, all of one size."""
    images = [view for views in pictures for view in views]
    family, means, deviations = family_of(pipe), [], []
    for start in range(0, len(images), batch_size):
        pixels = torch.stack([to_tensor(image) for image in images[start : start + batch_size]])
        mean, deviation = family.encode_images(pipe, pixels)
        means.append(mean)
        deviations.append(deviation)
    return Latents(torch.cat(means), torch.cat(deviations), len(pictures[0]))


@dataclass(frozen=True)
class Batch:
    """One batch: latents and noise [n, c, h, w], timesteps [n], index of the picture [n], is it a class image [n]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    picture: Tensor
    is_class: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field).to(device) for field in self.__dataclass_fields__))


@dataclass(frozen=True)
class DataSampler:
    """Gives the batch of any step: `batch_size` instance samples, and as many class samples if there are any.

    A sample depends only on the seed, the step and its index in the global batch. It does not depend on earlier steps,
    or on how many processes share the batch.
    """

    instance: Latents
    prior: Latents | None
    batch_size: int
    global_batch_size: int
    num_timesteps: int
    seed: int

    def batch(self, step: int, first: int = 0) -> Batch:
        """The samples `first` to `first + batch_size` of the global batch of `step` (from 1)."""
        sides = [self._side(self.instance, "instance", step, first)]
        if self.prior is not None:
            sides.append(self._side(self.prior, "class", step, first))
        latents, noise, timesteps, picture = (torch.cat(parts) for parts in zip(*sides, strict=True))
        is_class = torch.arange(len(latents)) >= self.batch_size
        return Batch(latents, noise, timesteps, picture, is_class)

    def _side(self, source: Latents, kind: str, step: int, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        indices = range(first, first + self.batch_size)
        start = (step - 1) * self.global_batch_size
        picture = torch.tensor([shuffled_position(len(source), start + i, self.seed, f"{kind} order") for i in indices])
        view = stacked_integers(source.views, self.seed, f"{kind} view", step, indices)
        chosen = picture * source.views + view
        shape = tuple(source.mean.shape[1:])
        spread = stacked_normal(shape, self.seed, f"{kind} posterior", step, indices)
        noise = stacked_normal(shape, self.seed, f"{kind} noise", step, indices)
        timesteps = stacked_integers(self.num_timesteps, self.seed, f"{kind} timestep", step, indices)
        return source.mean[chosen] + source.deviation[chosen] * spread, noise, timesteps, picture
