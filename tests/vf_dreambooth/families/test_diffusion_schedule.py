"""The targets and weights of epsilon and v models in closed form."""

import pytest
import torch
from diffusers import DDPMScheduler

from vectorfit import VectorFitError
from vf_dreambooth.families.diffusion_schedule import DiffusionSchedule
from vf_dreambooth.objective import combine


def test_the_target_follows_the_prediction_type():
    latents, noise, timesteps = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([10, 900])
    assert torch.equal(DiffusionSchedule(DDPMScheduler()).target(latents, noise, timesteps), noise)
    velocity = DDPMScheduler(prediction_type="v_prediction")
    a = velocity.alphas_cumprod[timesteps].sqrt().view(2, 1, 1, 1)
    s = (1 - velocity.alphas_cumprod[timesteps]).sqrt().view(2, 1, 1, 1)
    torch.testing.assert_close(DiffusionSchedule(velocity).target(latents, noise, timesteps), a * noise - s * latents)
    with pytest.raises(VectorFitError, match="'sample'"):
        DiffusionSchedule(DDPMScheduler(prediction_type="sample")).target(latents, noise, timesteps)


def test_min_snr_weights_both_halves_in_closed_form():
    schedule, gamma = DDPMScheduler(), 5.0
    timesteps = torch.tensor([10, 400, 900])
    snr = schedule.alphas_cumprod[timesteps] / (1 - schedule.alphas_cumprod[timesteps])
    expected = [min(s, gamma) / s for s in snr.tolist()]
    torch.testing.assert_close(DiffusionSchedule(schedule).min_snr_weights(timesteps, gamma), torch.tensor(expected))
    velocity = DiffusionSchedule(DDPMScheduler(prediction_type="v_prediction")).min_snr_weights(timesteps, gamma)
    torch.testing.assert_close(velocity, torch.tensor([min(s, gamma) / (s + 1) for s in snr.tolist()]))
    # One weight per sample, class or not, so a batch of one photo and one class image has two.
    losses = torch.tensor([1.0, 1.0, 1.0]) * velocity
    total, _, _ = combine(losses, torch.tensor([False, True, True]), 1.0)
    assert total == pytest.approx(float(velocity[0] + velocity[1:].mean()))
