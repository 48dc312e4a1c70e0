"""A rough picture of latents has the colours of the picture that they encode."""

import pytest
import torch
from PIL import Image
from torch.nn import functional

from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families import family_of
from vf_dreambooth.latent_colours import LatentColours


@pytest.fixture(scope="module")
def starter():
    pipe = load(resolve("starter"))
    return pipe, LatentColours(family_of(pipe), pipe)


@pytest.mark.parametrize("colour", [(-0.8, -0.8, -0.8), (0.8, 0.8, 0.8), (0.6, -0.4, -0.4), (-0.4, 0.4, -0.4)])
def test_a_plain_colour_comes_back_roughly(starter, colour):
    pipe, colours = starter
    pixels = torch.tensor(colour)[None, :, None, None].expand(1, 3, 64, 64)
    latents, _ = family_of(pipe).encode_images(pipe, pixels)
    picture = colours.image(latents[0])
    assert picture.size == tuple(latents.shape[-2:])
    red, green, blue = torch.tensor(picture.getpixel((picture.width // 2, picture.height // 2))) / 127.5 - 1
    assert torch.stack([red, green, blue]).sub(torch.tensor(colour)).abs().max() < 0.35


def test_places_stay_where_they_are(starter):
    pipe, colours = starter
    pixels = -torch.ones(1, 3, 64, 64)
    pixels[..., :32, :32] = 1  # white at the upper left
    picture = colours.image(family_of(pipe).encode_images(pipe, pixels)[0][0]).convert("L")
    quarters = functional.adaptive_avg_pool2d(
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        .reshape(1, picture.height, picture.width)
        .float(),
        2,
    )[0]
    assert quarters[0, 0] > 1.8 * quarters.flatten()[1:].max()


def test_half_precision_latents_on_any_device_are_taken(starter):
    _, colours = starter
    channels = colours._map.shape[0] - 1
    assert isinstance(colours.image(torch.zeros(channels, 4, 4, dtype=torch.bfloat16)), Image.Image)
