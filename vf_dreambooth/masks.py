"""Masks: which part of a photo is the subject. PHOTO.mask.png beside a photo, or the photo's own transparency."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vectorfit import VectorFitError

SUFFIX = ".mask.png"
EXPECTED = "expected a picture with the subject white on black"


def mask_path(photo: Path) -> Path:
    """Where the mask of a photo would be."""
    return photo.with_suffix(SUFFIX)


def is_mask(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIX)


def read_mask(photo: Path, upright: Image.Image) -> Image.Image | None:
    """The mask (mode L, 255 is the subject) of a photo, given as it is stored but upright; None if it has none.

    A mask of one brightness that is not black says nothing, so it counts as none.

    Raises:
        VectorFitError: the file cannot be read, has another size than the photo, or shows no subject.
    """
    path = mask_path(photo)
    if path.exists():
        mask = _opened(path)
        if mask.size != upright.size:
            sizes = " x ".join(map(str, mask.size)), " x ".join(map(str, upright.size))
            raise VectorFitError(
                f"{path}: {sizes[0]} pixels, expected {sizes[1]} as {photo.name} has when it is upright; scale it"
            )
    elif upright.has_transparency_data:
        path, mask = photo, upright.convert("RGBA").getchannel("A")
    else:
        return None
    low, high = mask.getextrema()
    if high == 0:
        what = "it is black everywhere" if path != photo else "the photo is transparent everywhere"
        raise VectorFitError(f"{path}: {what}, {EXPECTED}" if path != photo else f"{path}: {what}; remove it")
    return None if low == high else mask


def _opened(path: Path) -> Image.Image:
    """A mask file in mode L: its transparency if it has any, otherwise its brightness."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise VectorFitError(f"{path}: cannot be read as a PNG ({error}); {EXPECTED}") from error
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    if image.mode.startswith("I"):  # 16 bits a pixel, which a plain conversion would turn white
        return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    return image.convert("L")


def centering(mask: Image.Image, size: tuple[int, int] = (1, 1)) -> tuple[float, float]:
    """Where a cut of the form of `size` must be so that the subject is in its middle, as `ImageOps.fit` takes it."""
    box = mask.point(lambda level: 255 * (level > 127)).getbbox() or (0, 0, *mask.size)
    scale, fractions = min(mask.width / size[0], mask.height / size[1]), []
    for low, high, length, part in zip(box[:2], box[2:], mask.size, size, strict=True):
        side = scale * part
        room = length - side
        fractions.append(min(max((low + high - side) / 2 / room, 0.0), 1.0) if room > 0 else 0.5)
    return fractions[0], fractions[1]


def weights(masks: list[Image.Image] | None, count: int, shape: tuple[int, int], unmasked_weight: float) -> Tensor:
    """The weight of every latent pixel of the `count` views of one photo in the loss, [count, 1, h, w].

    The subject counts 1 and the rest `unmasked_weight`; then all are scaled so that their mean over the views is 1:
    a small subject counts as much as a large one. Without masks all are 1.
    """
    if masks is None:
        return torch.ones(count, 1, *shape)
    levels = [torch.from_numpy(np.asarray(mask, np.float32) / 255)[None, None] for mask in masks]
    subject = torch.cat([F.adaptive_avg_pool2d(level, shape) for level in levels])
    weight = subject + unmasked_weight * (1 - subject)
    return weight / weight.mean().clamp(min=1e-6)
