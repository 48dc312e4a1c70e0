"""The level that exports lack comes back, in text encoders alone."""

from vf_dreambooth.families.layer_names import kohya_name, kohya_naming, published_name


def test_text_encoders_get_their_level_back_and_nothing_else():
    assert (
        published_name("text_encoder_2.encoder.layers.0.mlp.fc1")
        == "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"
    )
    for path in ("unet.conv_in", "transformer.layers.0.attention.to_q", "text_encoder_2.text_projection"):
        assert published_name(path) == path


def test_kohyas_form_has_a_prefix_for_each_model_and_underscores():
    naming = kohya_naming(lambda path: kohya_name(path, {"unet": "lora_unet_", "text_encoder": "lora_te1_"}))
    assert naming.layer("text_encoder.encoder.layers.0.mlp.fc1") == "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    assert naming.layer("unet.mid_block.attentions.0.proj_in") == "lora_unet_mid_block_attentions_0_proj_in"
    assert (naming.down, naming.up, naming.alpha, naming.bias) == ("lora_down.weight", "lora_up.weight", "alpha", "")
