"""What is Flux's own: guidance as a number, no negative prompt, sizes, and a name that ComfyUI knows."""

from dataclasses import replace

import pytest
import torch

from tests.vf_dreambooth.families.tiny import flux, tiny
from vectorfit import VectorFitError
from vf_dreambooth.engine import Engine, PromptBatch
from vf_dreambooth.families.flux import Flux
from vf_dreambooth.families.stable_diffusion_3 import StableDiffusion3
from vf_dreambooth.pipeline import GenerationSettings, generate_images

SAMPLING = GenerationSettings(num_inference_steps=1, guidance_scale=3.5, resolution=16)


def test_without_guidance_embedding_the_model_gets_none():
    family, pipe = Flux(), flux(guidance=False)
    denoiser, ids = family.denoiser(pipe), family.tokenize(pipe, ["a dog"])
    noisy = torch.randn(2, 4, 8, 8)
    assert denoiser(noisy, torch.tensor([500.0, 100.0]), ids, torch.tensor([0, 0])).shape == noisy.shape
    assert (family.architecture(pipe), family.architecture(tiny(Flux))) == ("flux-1-schnell", "flux-1-dev")


def test_it_refuses_a_negative_prompt_and_other_samplers():
    pipe = tiny(Flux)
    with pytest.raises(VectorFitError, match=r"a Flux\.1 takes none, got 'blurry'"):
        generate_images(pipe, ["a dog"], [0], replace(SAMPLING, negative_prompt="blurry"))
    engine = Engine()
    engine._pipe = pipe
    with pytest.raises(VectorFitError, match='generates with "the model\'s own" alone'):
        engine.generate(PromptBatch(None, (), ("a dog",), (0,), SAMPLING, "DDIM"))


def test_a_size_that_gives_no_whole_tokens_is_refused():
    with pytest.raises(VectorFitError, match=r"--resolution: got 18, expected a multiple of 4 for a Flux\.1"):
        Flux().encode_images(tiny(Flux), torch.zeros(1, 3, 18, 18))


@pytest.mark.parametrize("family", [Flux(), StableDiffusion3()], ids=lambda family: family.name)
def test_layers_have_the_names_of_comfyuis_key_map(family):
    path = "transformer.transformer_blocks.3.attn.add_q_proj"
    assert family.naming("diffusers").layer(path) == path
    assert family.naming("onetrainer").layer(path) == "lora_transformer_transformer_blocks_3_attn_add_q_proj"
