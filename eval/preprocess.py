"""Prepares images for encoders. The code is ours, on Pillow, because the libraries differ in their results."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .protocols import Preprocess


def prepare(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """An image resized, cropped and normalised, float32 [3, crop, crop]; bit for bit torchvision's result."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != preprocess.resize:
        long = int(preprocess.resize * long / short)
        size = (preprocess.resize, long) if width <= height else (long, preprocess.resize)
        image = image.resize(size, Image.Resampling.BICUBIC)
    left = round((image.width - preprocess.crop) / 2.0)
    top = round((image.height - preprocess.crop) / 2.0)
    image = image.crop((left, top, left + preprocess.crop, top + preprocess.crop))
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (
        torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (preprocess.mean, preprocess.std)
    )
    return pixels.sub_(mean).div_(std)
