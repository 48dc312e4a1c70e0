"""A rough picture of latents while an image is drawn: a linear map from a latent pixel to a colour.

The map is fitted once for a base, on what its own encoder makes of smooth random pictures. It costs a millionth of the
decoder, so that a preview of every step costs nothing.
"""

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .families.family import Family

PICTURES, SIDE, SPOTS = 4, 128, 6  # random pictures to fit on, their pixels a side, their spots of colour a side


class LatentColours:
    """The map of one base."""

    def __init__(self, family: Family, pipe: DiffusionPipeline) -> None:
        spots = torch.rand(PICTURES, 3, SPOTS, SPOTS, generator=torch.Generator().manual_seed(0)) * 2 - 1
        pixels = functional.interpolate(spots, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)
        with torch.no_grad():
            latents = family.encode_images(pipe, pixels)[0]
        colours = functional.interpolate(pixels, size=latents.shape[-2:], mode="area")
        # Least squares over all latent pixels, with a constant as the last row of the map.
        self._map = torch.linalg.lstsq(_rows(latents), _pixels(colours)).solution

    def image(self, latents: Tensor) -> Image.Image:
        """Latents [c, h, w] as a picture of h x w pixels."""
        colours = _rows(latents.float().cpu()[None]) @ self._map
        values = ((colours + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(values.reshape(*latents.shape[-2:], 3).numpy())


def _pixels(images: Tensor) -> Tensor:
    """Images [n, c, h, w] as a row per pixel, [n h w, c]."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _rows(latents: Tensor) -> Tensor:
    """A row per pixel with a constant, [n h w, c + 1]."""
    rows = _pixels(latents)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
