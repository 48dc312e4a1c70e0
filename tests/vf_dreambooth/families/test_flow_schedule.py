"""Flow matching in closed form: paths, targets, weights, and the density of timesteps."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from vf_dreambooth.families.flow_schedule import FlowSchedule


def schedule(**config: object) -> FlowSchedule:
    return FlowSchedule(FlowMatchEulerDiscreteScheduler(**config))


def test_paths_are_straight_and_the_target_is_their_velocity():
    latents, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    flow, times = schedule(), torch.tensor([0.0, 250.0, 1000.0])
    at = flow.add_noise(latents, noise, times)
    assert torch.equal(at[0], latents[0])
    assert torch.equal(at[2], noise[2])
    step = 1e-3
    later = flow.add_noise(latents, noise, times + 1000 * step)
    torch.testing.assert_close((later - at) / step, flow.target(latents, noise, times), atol=1e-2, rtol=1e-2)


def test_noise_is_added_as_the_scheduler_adds_it():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    latents, noise = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    times = scheduler.timesteps[[100, 900]]
    expected = scheduler.scale_noise(latents, times, noise)
    torch.testing.assert_close(schedule(shift=3.0).add_noise(latents, noise, times), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_are_logit_normal_and_shifted(shift):
    flow, generator = schedule(shift=shift), torch.Generator().manual_seed(0)
    times = torch.cat([flow.draw_timestep((16, 8, 8), generator) for _ in range(4000)])
    assert 0 < times.min() < times.max() < 1000
    logits = torch.logit(times.double() / 1000)  # the shift moves the logits: s / (1 - s) is multiplied by it
    assert float(logits.mean()) == pytest.approx(math.log(shift), abs=0.05)
    assert float(logits.std()) == pytest.approx(1, abs=0.05)


def test_flux_shifts_by_the_number_of_tokens_as_its_pipeline_does():
    flow = schedule(shift=3.0, use_dynamic_shifting=True)
    for side in (32, 64, 128):
        assert flow.shift((16, side, side)) == pytest.approx(math.exp(calculate_shift((side // 2) ** 2)))


def test_min_snr_weights():
    flow, times = schedule(), torch.tensor([100.0, 500.0, 900.0])
    share = times / 1000
    snr = ((1 - share) / share) ** 2
    torch.testing.assert_close(flow.min_snr_weights(times, 5.0), snr.clamp(max=5.0) * share**2)
    assert torch.isfinite(flow.min_snr_weights(torch.tensor([0.0]), 5.0)).all()
