"""Pictures as encoders want them. Our own, on Pillow: libraries' differ from each other in the last bits and beyond."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .protocols import Preprocess


def prepare(image: Image.Image, how: Preprocess) -> Tensor:
    """A picture resized, cropped and normalised, float32 [3, crop, crop]; bit for bit what torchvision makes of it."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != how.resize:
        long = int(how.resize * long / short)
        size = (how.resize, long) if width <= height else (long, how.resize)
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - how.crop) / 2.0)
    top = round((image.height - how.crop) / 2.0)
    image = image.crop((left, top, left + how.crop, top + how.crop))
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (how.mean, how.std))
    return pixels.sub_(mean).div_(std)
