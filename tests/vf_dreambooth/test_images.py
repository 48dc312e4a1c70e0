"""Squares and views of a picture."""

import numpy as np
import torch
from PIL import Image

from vf_dreambooth.images import CROPS, square, views


def test_square_takes_the_centre():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert square(image, 10).getcolors() == [(100, (0, 0, 255))]


def test_views_of_a_photo():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 48, 3), dtype=np.uint8))

    def of(**choices):
        return [np.asarray(v) for v in views(image, (16, 16), generator=torch.Generator().manual_seed(0), **choices)]

    (centre,) = of(center_crop=True, random_flip=False)
    both = of(center_crop=True, random_flip=True)
    assert (both[0] == centre).all()
    assert (both[1] == centre[:, ::-1]).all()
    crops = of(center_crop=False, random_flip=False)
    assert len({crop.tobytes() for crop in crops}) == CROPS
    assert len(of(center_crop=False, random_flip=True)) == 2 * CROPS
