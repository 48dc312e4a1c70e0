"""What is Stable Diffusion 3's own: it works without T5, and without training CLIP; its names in other tools."""

import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from tests.vf_dreambooth.families.publishers import kohya_checkpoint, with_a_subject
from tests.vf_dreambooth.families.tiny import stable_diffusion_3, tiny
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion_3 import T5_LENGTH, StableDiffusion3
from vf_dreambooth.pipeline import GenerationSettings, generate_images


def test_without_t5_there_are_zeros_in_its_place(tmp_path):
    stable_diffusion_3(with_t5=False).save_pretrained(tmp_path / "base")
    pipe, family = load(resolve(str(tmp_path / "base"))), StableDiffusion3()
    assert pipe.text_encoder_3 is None
    ids = family.tokenize(pipe, ["a photo of a dog"])
    with torch.no_grad():
        states, pooled = family.denoiser(pipe).encode(ids)
    theirs = pipe.encode_prompt(["a photo of a dog"], None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(states, theirs[0])
    torch.testing.assert_close(pooled, theirs[2])
    assert not states[:, -T5_LENGTH:].any()
    assert generate_images(pipe, ["a dog"], [0], GenerationSettings(1, 2.0, 16))


def test_t5_is_no_part_of_what_is_trained_or_moved():
    denoiser = StableDiffusion3().denoiser(stable_diffusion_3())
    parts = {name.split(".")[0] for name, _ in denoiser.named_parameters()}
    assert parts == {"transformer", "text_encoder", "text_encoder_2"}


def test_kohyas_lora_changes_the_publishers_weights_as_the_subject_changes_ours():
    """diffusers' own converter of Stability's checkpoints takes every layer of the LoRA back to where it came from."""
    pipe, family = tiny(StableDiffusion3), StableDiffusion3()
    changes = with_a_subject(pipe.transformer)
    marks = ["joint_blocks.0.x_block.attn2.ln_q.weight", "joint_blocks.1.x_block.attn.ln_q.weight"]
    checkpoint = kohya_checkpoint(pipe.transformer, family.naming("kohya", pipe), marks)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    assert not checkpoint.changes
    for path, change in changes.items():
        torch.testing.assert_close(converted[f"{path}.weight"], change, atol=1e-5, rtol=1e-4)
