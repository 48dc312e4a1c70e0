"""What is Stable Diffusion XL's own: its names in other tools, its refusals, what no gradient reaches."""

import pytest
from safetensors.torch import load_file

import vectorfit as vf
from tests.vf_dreambooth.families.tiny import tiny
from vf_dreambooth.families.stable_diffusion_xl import StableDiffusionXL
from vf_training import methods

# As published LoRA files of Stable Diffusion XL have them: diffusers' own, and those of kohya's scripts.
PUBLISHED = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    ),
    "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": (
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
        "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
    ),
    "unet.mid_block.attentions.0.proj_in": ("unet.mid_block.attentions.0.proj_in", "lora_unet_middle_block_1_proj_in"),
    "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0": (
        "unet.up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0",
        "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_out_0",
    ),
    "unet.up_blocks.2.resnets.0.time_emb_proj": (
        "unet.up_blocks.2.resnets.0.time_emb_proj",
        "lora_unet_output_blocks_6_0_emb_layers_1",
    ),
    "unet.add_embedding.linear_2": ("unet.add_embedding.linear_2", "lora_unet_label_emb_0_2"),
    "text_encoder.encoder.layers.3.mlp.fc1": (
        "text_encoder.text_model.encoder.layers.3.mlp.fc1",
        "lora_te1_text_model_encoder_layers_3_mlp_fc1",
    ),
    "text_encoder_2.text_projection": ("text_encoder_2.text_projection", "lora_te2_text_projection"),
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_layers_have_the_names_that_other_tools_give_them(path):
    family = StableDiffusionXL()
    assert tuple(family.namings[tool].layer(path) for tool in ("diffusers", "kohya")) == PUBLISHED[path]


def test_a_refiner_and_another_unet_are_refused_with_the_reason():
    family, pipe = StableDiffusionXL(), tiny(StableDiffusionXL)
    assert family.why_unfit(pipe) == ""
    pipe.unet.register_to_config(projection_class_embeddings_input_dim=24 + 5 * 4)
    assert "a refiner?" in family.why_unfit(pipe)
    pipe.unet.register_to_config(addition_embed_type=None)
    assert "expected text_time" in family.why_unfit(pipe)


@pytest.mark.parametrize("method", ["vectorfit", "lora", "full"])
def test_no_method_trains_what_no_gradient_reaches(method, tmp_path):
    family, pipe = StableDiffusionXL(), tiny(StableDiffusionXL)
    models = family.adapted_models(pipe)
    for model in models.values():
        model.requires_grad_(False)
    options = methods.Options(exclude=("text_encoder.encoder.layers.1", "text_encoder.final_layer_norm"))
    trained = methods.put_in(method, models, options)
    inside = [name for name in trained.parameters if name.startswith("text_encoder.") and ".layers." in name]
    assert inside
    assert all(".layers.0." in name for name in inside)
    assert not any("text_encoder.final_layer_norm" in name for name in trained.parameters)
    methods.save(trained, tmp_path / "file.safetensors", base_model="tiny")
    assert load_file(tmp_path / "file.safetensors")
    assert vf.read_metadata(tmp_path / "file.safetensors")
