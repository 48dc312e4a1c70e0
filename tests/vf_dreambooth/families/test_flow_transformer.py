"""What the families of flow-matching transformers share: latents as the pipelines decode them, and refusals."""

import pytest
import torch
from diffusers import DDIMScheduler

from tests.vf_dreambooth.families.tiny import tiny
from vf_dreambooth import pipeline
from vf_dreambooth.families.flux import Flux
from vf_dreambooth.families.stable_diffusion_3 import StableDiffusion3
from vf_dreambooth.families.z_image import ZImage

EACH = pytest.mark.parametrize("family", [StableDiffusion3(), Flux(), ZImage()], ids=lambda family: family.name)


@EACH
def test_latents_are_shifted_and_scaled_as_the_pipeline_undoes_it(family):
    pipe, pixels = tiny(type(family)), torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean, deviation = family.encode_images(pipe, pixels)
        posterior = pipe.vae.encode(pixels).latent_dist
    config = pipe.vae.config
    torch.testing.assert_close(mean / config.scaling_factor + config.shift_factor, posterior.mean)
    torch.testing.assert_close(deviation / config.scaling_factor, posterior.std)
    assert mean.shape[1:] == family.latent_shape(pipe, 16)


@EACH
def test_a_scheduler_of_another_kind_and_other_latents_are_refused(family):
    pipe = tiny(type(family))
    assert family.why_unfit(pipe) == ""
    pipe.scheduler = DDIMScheduler()
    assert "its scheduler is a DDIMScheduler, expected a FlowMatchEulerDiscreteScheduler" in family.why_unfit(pipe)
    pipe = tiny(type(family))
    pipe.vae.register_to_config(latent_channels=9)
    assert "a model for inpainting?" in family.why_unfit(pipe)


@EACH
def test_it_generates_in_bfloat16_on_cuda_where_float16_overflows(family):
    pipe = tiny(type(family))
    assert pipeline._served_in(pipe, "cuda") == torch.bfloat16
    assert pipeline._served_in(pipe, "cpu") == torch.float32
