"""Latents, computed once, and the batch of each step, a pure function of the seed and the step."""

from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from .config import TrainConfig
from .families import NoiseSchedule, family_of
from .images import to_tensor, views
from .masks import centering, weights
from .photos import Photos
from .randomness import generator, shuffled_position, stacked_integers, stacked_normal


@dataclass(frozen=True)
class Latents:
    """Posterior mean and standard deviation [n * views, c, h, w] of n pictures, scaled as the UNet expects them."""

    mean: Tensor
    deviation: Tensor
    views: int = 1  # squares of each picture, one after the other
    weights: Tensor | None = None  # of every pixel in the loss [n * views, 1, h, w]; None: all are 1

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


def encode_photos(pipe: DiffusionPipeline, photos: Photos, config: TrainConfig) -> Latents:
    """The latents of all squares of the photos, and by the photos' masks the weights of their pixels."""
    pictures, squares_of_masks = [], []
    for index, (image, mask) in enumerate(zip(photos.images, photos.masks, strict=True)):

        def cut(picture: Image.Image, index: int = index, mask: Image.Image | None = mask) -> list[Image.Image]:
            return views(
                picture,
                config.resolution,
                center_crop=config.center_crop,
                random_flip=config.random_flip,
                generator=generator(config.seed, "crops", index),  # a new one: photo and mask are cut alike
                centering=centering(mask) if mask else (0.5, 0.5),
            )

        pictures.append(cut(image))
        squares_of_masks.append(cut(mask) if mask else None)
    latents = encode_images(pipe, pictures)
    if not any(squares_of_masks):
        return latents
    shape = tuple(latents.mean.shape[-2:])
    per_photo = [weights(masks, latents.views, shape, config.unmasked_weight) for masks in squares_of_masks]
    return replace(latents, weights=torch.cat(per_photo))


@dataclass(frozen=True)
class Batch:
    """One batch: latents and noise [n, c, h, w], timesteps [n], index of the picture [n], is it a class image [n],
    weights of the pixels in the loss [n, 1, h, w]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    picture: Tensor
    is_class: Tensor
    weights: Tensor

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
    noise_schedule: NoiseSchedule
    seed: int
    offset_noise: float = 0.0

    def batch(self, step: int, first: int = 0) -> Batch:
        """The samples `first` to `first + batch_size` of the global batch of `step` (from 1)."""
        sides = [self._side(self.instance, "instance", step, first)]
        if self.prior is not None:
            sides.append(self._side(self.prior, "class", step, first))
        latents, noise, timesteps, picture, weight = (torch.cat(parts) for parts in zip(*sides, strict=True))
        is_class = torch.arange(len(latents)) >= self.batch_size
        return Batch(latents, noise, timesteps, picture, is_class, weight)

    def _side(self, source: Latents, kind: str, step: int, first: int) -> tuple[Tensor, ...]:
        indices = range(first, first + self.batch_size)
        start = (step - 1) * self.global_batch_size
        picture = torch.tensor([shuffled_position(len(source), start + i, self.seed, f"{kind} order") for i in indices])
        view = stacked_integers(source.views, self.seed, f"{kind} view", step, indices)
        chosen = picture * source.views + view
        shape = tuple(source.mean.shape[1:])
        spread = stacked_normal(shape, self.seed, f"{kind} posterior", step, indices)
        noise = stacked_normal(shape, self.seed, f"{kind} noise", step, indices)
        if self.offset_noise:  # one number a sample and channel: the brightness of all of it
            offset = stacked_normal((shape[0], 1, 1), self.seed, f"{kind} offset", step, indices)
            noise = noise + self.offset_noise * offset
        own = [generator(self.seed, f"{kind} timestep", step, index) for index in indices]
        timesteps = torch.cat([self.noise_schedule.draw_timestep(shape, each) for each in own])
        latents = source.mean[chosen] + source.deviation[chosen] * spread
        weight = torch.ones_like(latents[:, :1]) if source.weights is None else source.weights[chosen]
        return latents, noise, timesteps, picture, weight
