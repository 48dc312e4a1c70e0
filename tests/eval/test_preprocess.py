"""Our preprocessing is torchvision's, bit for bit; negative controls show that the test can tell."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from eval.preprocess import prepare
from eval.protocols import CLIP_B32, DINO_S16


def picture(width, height, seed):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def reference(how, antialias=True, mean=None):
    return transforms.Compose(
        [
            transforms.Resize(how.resize, InterpolationMode.BICUBIC, antialias=antialias),
            transforms.CenterCrop(how.crop),
            transforms.ToTensor(),
            transforms.Normalize(mean or how.mean, how.std),
        ]
    )


@pytest.mark.parametrize("spec", [DINO_S16, CLIP_B32], ids=lambda spec: spec.library)
@given(st.integers(225, 700), st.integers(225, 700), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_it_equals_torchvisions_bit_for_bit(spec, width, height, seed):
    image = picture(width, height, seed)
    assert torch.equal(prepare(image, spec.preprocess), reference(spec.preprocess)(image))


@pytest.mark.parametrize("size", [(256, 256), (100, 80), (64, 64), (256, 300), (2000, 1500)])
def test_sizes_at_the_edges(size):
    image = picture(*size, 0)
    for spec in (DINO_S16, CLIP_B32):
        assert torch.equal(prepare(image, spec.preprocess), reference(spec.preprocess)(image))


def test_resizing_tensors_or_another_mean_would_be_noticed():
    image, how = picture(500, 400, 1), DINO_S16.preprocess
    ours = prepare(image, how)
    on_tensors = transforms.Resize(how.resize, InterpolationMode.BICUBIC, antialias=False)(transforms.ToTensor()(image))
    aliased = transforms.Normalize(how.mean, how.std)(transforms.CenterCrop(how.crop)(on_tensors))
    assert (ours - aliased).abs().max() > 0.1
    assert (ours - reference(how, mean=(0.5, 0.5, 0.5))(image)).abs().max() > 0.01
