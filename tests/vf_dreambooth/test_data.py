"""Batches are a function of seed, step and index alone."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from vf_dreambooth.data import DataSampler, Latents
from vf_dreambooth.families.diffusion_schedule import DiffusionSchedule


def schedule(num_timesteps: int) -> DiffusionSchedule:
    return DiffusionSchedule(DDPMScheduler(num_train_timesteps=num_timesteps))


def sampler(batch_size: int, seed: int = 0) -> DataSampler:
    generator = torch.Generator().manual_seed(1)
    sides = [Latents(torch.randn(n, 4, 2, 2, generator=generator), torch.ones(n, 4, 2, 2)) for n in (5, 7)]
    return DataSampler(*sides, batch_size=batch_size, global_batch_size=4, noise_schedule=schedule(1000), seed=seed)


def test_a_sample_depends_on_its_place_in_the_global_batch_alone():
    whole = sampler(4).batch(3)
    parts = [sampler(2).batch(3, first) for first in (0, 2)]
    for field in ("latents", "noise", "timesteps"):
        instance = torch.cat([getattr(part, field)[:2] for part in parts])
        prior = torch.cat([getattr(part, field)[2:] for part in parts])
        assert torch.equal(torch.cat([instance, prior]), getattr(whole, field))
    assert whole.is_class.tolist() == [False] * 4 + [True] * 4


def test_steps_and_seeds_differ_and_repeat():
    first = sampler(4).batch(1)
    assert torch.equal(sampler(4).batch(1).noise, first.noise)
    assert not torch.equal(sampler(4).batch(2).noise, first.noise)
    assert not torch.equal(sampler(4, seed=1).batch(1).noise, first.noise)


def test_every_photo_is_shown_equally_often():
    still = Latents(torch.arange(5.0).view(5, 1, 1, 1), torch.zeros(5, 1, 1, 1))
    draw = DataSampler(still, None, batch_size=4, global_batch_size=4, noise_schedule=schedule(10), seed=0)
    shown = torch.cat([draw.batch(step).latents.flatten() for step in range(1, 6)])
    assert sorted(shown.tolist()) == sorted([*range(5)] * 4)


def test_the_sampler_draws_every_view():
    latents = Latents(torch.arange(6.0).view(6, 1, 1, 1), torch.zeros(6, 1, 1, 1), views=2)
    draw = DataSampler(latents, None, batch_size=3, global_batch_size=3, noise_schedule=schedule(10), seed=0)
    for step in range(1, 20):
        batch = draw.batch(step)
        assert ((batch.latents.flatten() // 2).long() == batch.picture).all()
        assert sorted(batch.picture.tolist()) == [0, 1, 2]
    shown = {float(value) for step in range(1, 20) for value in draw.batch(step).latents.flatten()}
    assert shown == {0, 1, 2, 3, 4, 5}


def test_offset_noise_shifts_whole_channels_and_leaves_the_rest():
    plain, offset = sampler(4).batch(2), replace(sampler(4), offset_noise=0.5).batch(2)
    shift = offset.noise - plain.noise
    torch.testing.assert_close(shift, shift.mean((2, 3), keepdim=True).expand_as(shift))
    assert torch.equal(offset.latents, plain.latents)
    many = [
        replace(sampler(4), offset_noise=0.5).batch(step).noise - sampler(4).batch(step).noise for step in range(80)
    ]
    assert torch.cat(many)[..., 0, 0].std().item() == pytest.approx(0.5, rel=0.1)
