"""Sizes for photos that are not square."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train_dreambooth_vectorfit import main
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.buckets import LEAST, bucket
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.data import DataSampler, encode_photos
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.photos import read_folder
from vf_training.runs import RunFolder


@given(st.integers(30, 6000), st.integers(30, 6000), st.sampled_from([64, 128, 512, 1024]))
def test_a_bucket_has_the_form_of_its_photo_and_the_pixels_of_the_square(width, height, resolution):
    wide, high = bucket((width, height), resolution)
    assert LEAST * resolution**2 <= wide * high <= resolution**2
    assert wide % (resolution // 8) == high % (resolution // 8) == 0
    assert bucket((height, width), resolution) == (high, wide)
    if 1 / 4 <= width / height <= 4:
        kept = min(width / height, wide / high) / max(width / height, wide / high)
        assert kept > 0.85  # what is left of the photo after the cut


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), (512, 512)), ((4032, 3024), (576, 448)), ((3000, 2000), (576, 384)), ((1080, 1920), (384, 640))],
)
def test_phones_photos(size, expected):
    assert bucket(size, 512) == expected


@pytest.fixture
def mixed(photos):
    """Photos of 20 x 24, of which one is twice as wide as high, with its mask."""
    Image.new("RGB", (48, 24), "blue").save(photos / "1.png")
    mask = Image.new("L", (48, 24))
    mask.paste(255, (24, 0, 48, 24))
    mask.save(photos / "1.mask.png")
    return photos


def config(photos, **more):
    return TrainConfig(instance_data_dir=str(photos), resolution=16, aspect_ratio_buckets=True, **more)


def test_the_latents_of_each_photo_are_those_of_its_bucket_alone(tiny_base, mixed):
    pipe, photos = load(resolve(str(tiny_base))), read_folder(mixed)
    latents = encode_photos(pipe, photos, config(mixed))
    assert latents.mean.shape[-2:] == (8, 11)  # half of 14 x 16 and 22 x 10 pixels, padded to the largest sides
    for index, (height, width) in enumerate(latents.sizes.tolist()):
        assert (2 * width, 2 * height) == bucket(photos.images[index].size, 16)
        assert (latents.mean[index, :, height:] == 0).all()
        assert (latents.mean[index, :, :, width:] == 0).all()
    weights = latents.weights[1, 0, : latents.sizes[1, 0], : latents.sizes[1, 1]]
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    assert weights[0, -1] > weights[0, 0]


def test_a_batch_is_taken_apart_by_size_without_its_padding(tiny_base, mixed):
    pipe = load(resolve(str(tiny_base)))
    latents = encode_photos(pipe, read_folder(mixed), config(mixed))
    schedule = StableDiffusion().noise_schedule(pipe)
    batch = DataSampler(latents, None, batch_size=3, global_batch_size=3, noise_schedule=schedule, seed=0).batch(1)
    found = dict(zip(torch.cat([rows for rows, _ in batch.by_size()]).tolist(), range(3), strict=True))
    assert sorted(found) == [0, 1, 2]
    for rows, part in batch.by_size():
        for row, alone in zip(rows.tolist(), part.latents, strict=True):
            height, width = batch.sizes[row].tolist()
            assert alone.shape[-2:] == (height, width)
            torch.testing.assert_close(alone, batch.latents[row, :, :height, :width])
        assert part.noise.shape == part.latents.shape
        assert part.weights.shape[-2:] == part.latents.shape[-2:]


def test_a_run_with_buckets_trains_every_photo_and_resumes(arguments, mixed, tmp_path):
    main(arguments(tmp_path / "whole", "--aspect_ratio_buckets", "--max_train_steps", 6))
    log = RunFolder(tmp_path / "whole").read_log()
    assert all(math.isfinite(entry["loss"]) for entry in log)
    main(arguments(tmp_path / "square", "--max_train_steps", 6))
    assert RunFolder(tmp_path / "square").read_log()[0]["loss"] != log[0]["loss"]


def test_square_photos_are_trained_as_without_buckets(arguments, photos, tmp_path):
    for file in photos.glob("*.png"):
        Image.open(file).resize((24, 24)).save(file)
    losses = []
    for name, flags in (("plain", ()), ("buckets", ("--aspect_ratio_buckets",))):
        main(arguments(tmp_path / name, *flags))
        losses.append([entry["loss"] for entry in RunFolder(tmp_path / name).read_log()])
    assert losses[0] == losses[1]
