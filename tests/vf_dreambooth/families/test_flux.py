"""What is Flux's own: guidance as a number, no negative prompt, sizes, and a name that ComfyUI knows."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from torch import nn

from tests.vf_dreambooth.families.publishers import kohya_checkpoint, with_a_subject
from tests.vf_dreambooth.families.tiny import flux, tiny
from vectorfit import VectorFitError
from vectorfit.export import lora
from vf_dreambooth.engine import Engine, PromptBatch
from vf_dreambooth.families.flux import ORIGINAL, Flux
from vf_dreambooth.families.stable_diffusion_3 import StableDiffusion3
from vf_dreambooth.pipeline import GenerationSettings, generate_images

SAMPLING = GenerationSettings(num_inference_steps=1, guidance_scale=3.5, resolution=16)


def test_without_guidance_embedding_the_model_gets_none():
    family, pipe = Flux(), flux(guidance=False)
    denoiser, ids = family.denoiser(pipe), family.tokenize(pipe, ["a dog"])
    noisy = torch.randn(2, 4, 8, 8)
    assert denoiser(noisy, torch.tensor([500.0, 100.0]), ids, torch.tensor([0, 0])).shape == noisy.shape
    assert (family.architecture(pipe), family.architecture(tiny(Flux))) == ("flux-1-schnell", "flux-1-dev")


@pytest.mark.parametrize(("guidance", "length"), [(True, 512), (False, 256)], ids=["dev", "schnell"])
def test_prompts_have_the_length_of_the_bases_training_in_training_and_in_pictures(guidance, length):
    family, pipe, seen = Flux(), flux(guidance=guidance), []
    assert family.tokenize(pipe, ["a dog"]).shape[1] == pipe.tokenizer.model_max_length + length
    pipe.transformer.register_forward_pre_hook(
        lambda model, args, given: seen.append(given["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    generate_images(pipe, ["a dog"], [0], SAMPLING)
    assert seen == [length]


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
    assert family.namings["diffusers"].layer(path) == path
    assert family.namings["onetrainer"].layer(path) == "lora_transformer_transformer_blocks_3_attn_add_q_proj"


def flux_of_few_inputs() -> nn.Module:
    """A module with a layer at every path of Flux's transformer, of the true widths, which diffusers' converters know.

    Two blocks of each kind. To stay small the layers have but 4 inputs, and but 6 outputs where nobody cuts them.
    """
    model = nn.Module()
    for path in (path.replace("#", number) for path in ORIGINAL for number in "01"):
        outputs = {"proj_mlp": 4 * 3072, "attn": 3072}.get(
            path.split(".")[2] if ".attn." in path else path.split(".")[-1], 6
        )
        module = model
        for name in path.split(".")[:-1]:
            if name not in dict(module.named_children()):
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        module.add_module(path.split(".")[-1], nn.Linear(4, outputs))
    return model


def test_kohyas_lora_changes_the_publishers_weights_as_the_subject_changes_ours():
    """diffusers' converter of Black Forest Labs' checkpoints takes each layer of it back to where it came from."""
    model = flux_of_few_inputs()
    changes = with_a_subject(model)
    marks = [f"{blocks}.{number}.guidance" for blocks in ("double_blocks", "single_blocks") for number in "01"]
    checkpoint = kohya_checkpoint(model, Flux().namings["kohya"], marks)
    converted = convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    assert not checkpoint.changes
    assert len(changes) > 40
    for path, change in changes.items():
        torch.testing.assert_close(converted[f"{path}.weight"], change, atol=1e-5, rtol=1e-4)


def test_diffusers_reads_kohyas_lora():
    """All layers in the blocks; those outside it reads under other names than it looks for, and leaves out."""
    model = flux_of_few_inputs()
    changes = with_a_subject(model)
    read = FluxPipeline.lora_state_dict(lora({"transformer": model}, 9999, Flux().namings["kohya"]).tensors)
    for path, change in changes.items():
        if "transformer_blocks" in path:
            up, down = (read.pop(f"transformer.{path}.lora_{part}.weight") for part in "BA")
            torch.testing.assert_close(up @ down, change, atol=1e-5, rtol=1e-4)
    assert not any(name.startswith("transformer.") for name in read)
