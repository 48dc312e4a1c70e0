"""Latents, computed once, and the batch of each step, a pure function of the seed and the step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .buckets import bucket
from .config import TrainConfig
from .families import NoiseSchedule, family_of
from .images import to_tensor, views
from .masks import centering, weights
from .photos import Photos
from .randomness import generator, shuffled_position, stacked_integers, stacked_normal


@dataclass(frozen=True)
class Latents:
    """Posterior mean and standard deviation [n * views, c, h, w] of n pictures, scaled as the UNet expects them.

    Pictures of several sizes are padded at the right and below; `sizes` [n * views, 2] are their own heights and
    widths. Without `sizes` all are of one size.
    """

    mean: Tensor
    deviation: Tensor
    views: int = 1  # cuts of each picture, one after the other
    weights: Tensor | None = None  # of every pixel in the loss [n * views, 1, h, w]; None: all are 1
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mean) // self.views


def padded(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Values [..., h, w] with zeros at the right and below, so that they have this height and width."""
    return F.pad(values, (0, shape[1] - values.shape[-1], 0, shape[0] - values.shape[-2]))


@torch.no_grad()
def encode_images(pipe: DiffusionPipeline, pictures: list[list[Image.Image]], batch_size: int = 4) -> Latents:
    """The posterior of every view of every picture. All pictures have the same number of views."""
    images = [view for views in pictures for view in views]
    family, means, deviations = family_of(pipe), dict[int, Tensor](), dict[int, Tensor]()
    for size in dict.fromkeys(image.size for image in images):
        alike = [index for index, image in enumerate(images) if image.size == size]
        for start in range(0, len(alike), batch_size):
            rows = alike[start : start + batch_size]
            mean, deviation = family.encode_images(pipe, torch.stack([to_tensor(images[row]) for row in rows]))
            means |= dict(zip(rows, mean, strict=True))
            deviations |= dict(zip(rows, deviation, strict=True))
    sizes = torch.tensor([means[row].shape[-2:] for row in range(len(images))])
    height, width = sizes.amax(0).tolist()
    mean, deviation = (
        torch.stack([padded(found[row], (height, width)) for row in range(len(images))])
        for found in (means, deviations)
    )
    return Latents(mean, deviation, len(pictures[0]), sizes=None if (sizes == sizes[0]).all() else sizes)


def _cuts(
    picture: Image.Image, size: tuple[int, int], centre: tuple[float, float], config: TrainConfig, index: int
) -> list[Image.Image]:
    """The cuts of photo number `index`, or of its mask, which is cut as the photo is."""
    return views(
        picture,
        size,
        center_crop=config.center_crop,
        random_flip=config.random_flip,
        generator=generator(config.seed, "crops", index),
        centering=centre,
    )


def encode_photos(pipe: DiffusionPipeline, photos: Photos, config: TrainConfig) -> Latents:
    """The latents of all cuts of the photos, and by the photos' masks the weights of their pixels."""
    pictures, cut_masks = [], []
    for index, (image, mask) in enumerate(zip(photos.images, photos.masks, strict=True)):
        square = (config.resolution, config.resolution)
        size = bucket(image.size, config.resolution) if config.aspect_ratio_buckets else square

        centre = centering(mask, size) if mask else (0.5, 0.5)
        pictures.append(_cuts(image, size, centre, config, index))
        cut_masks.append(_cuts(mask, size, centre, config, index) if mask else None)
    latents = encode_images(pipe, pictures)
    if not any(cut_masks):
        return latents
    canvas = tuple(latents.mean.shape[-2:])
    shapes = [canvas] * len(photos.images) if latents.sizes is None else latents.sizes[:: latents.views].tolist()
    per_photo = [
        padded(weights(masks, latents.views, tuple(shape), config.unmasked_weight), canvas)
        for masks, shape in zip(cut_masks, shapes, strict=True)
    ]
    return replace(latents, weights=torch.cat(per_photo))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on the device. CUDA takes it in its turn, from pinned memory: nobody waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class Batch:
    """One batch: latents and noise [n, c, h, w], timesteps [n], index of the picture [n], is it a class image [n],
    weights of the pixels in the loss [n, 1, h, w], and of padded samples their own height and width [n, 2]."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    picture: Tensor
    is_class: Tensor
    weights: Tensor
    sizes: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, but for the sizes: to read them there, one would have to wait for it."""
        moved = {field: sent(getattr(self, field), device) for field in self.__dataclass_fields__ if field != "sizes"}
        return replace(self, **moved)

    def by_size(self) -> Iterator[tuple[Tensor, "Batch"]]:
        """The samples of each size, without their padding, and which rows of the batch they are [k]."""
        sizes = self.sizes.unique(dim=0)
        for height, width in sizes.tolist():
            rows = (self.sizes == torch.tensor([height, width])).all(1).nonzero()[:, 0]
            part = {field: getattr(self, field) for field in self.__dataclass_fields__}
            if len(sizes) > 1:
                part = {field: value[rows.to(value.device)] for field, value in part.items()}
            part |= {field: part[field][..., :height, :width] for field in ("latents", "noise", "weights")}
            yield rows, Batch(**part)


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
        *spatial, timesteps, picture, sizes = zip(*sides, strict=True)
        canvas = (max(side[0].shape[-2] for side in sides), max(side[0].shape[-1] for side in sides))
        latents, noise, weight = (torch.cat([padded(values, canvas) for values in parts]) for parts in spatial)
        timesteps, picture, sizes = torch.cat(timesteps), torch.cat(picture), torch.cat(sizes)
        is_class = torch.arange(len(latents)) >= self.batch_size
        return Batch(latents, noise, timesteps, picture, is_class, weight, sizes)

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
        whole = torch.tensor(shape[1:]).expand(len(chosen), 2)
        return latents, noise, weight, timesteps, picture, whole if source.sizes is None else source.sizes[chosen]
