"""The base of the flow benchmark is trained as the family reads it."""

import torch

from benchmarks import flow_matching
from vf_dreambooth.families.z_image import ZImage


@torch.no_grad()
def test_its_training_asks_the_model_what_the_family_asks():
    pipe, family = flow_matching.build(), ZImage()
    assert family.why_unfit(pipe) == ""
    prompts = ["a photo of a dog in the snow", "sks cat"]
    words = pipe.tokenizer(prompts, padding="max_length", max_length=48, return_tensors="pt").input_ids
    noisy, times = torch.randn(2, *family.latent_shape(pipe, 64)), torch.tensor([900.0, 100.0])
    theirs = family.denoiser(pipe)(noisy, times, family.tokenize(pipe, prompts), torch.tensor([0, 1]))
    torch.testing.assert_close(flow_matching.TextToFlow(pipe)(noisy, times, words), theirs, atol=1e-5, rtol=1e-4)
