"""The trainable counts of Stable Diffusion v1.4, from its configurations on the meta device."""

import pytest
import torch

import vectorfit as vf

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    return {"unet": unet, "text_encoder": text_encoder}


def test_counts(models):
    plan = vf.plan(models)
    assert plan.num_trainable == 438_656
    assert plan.num_total == 982_581_444
    unet, text_encoder = vf.plan(models["unet"]), vf.plan(models["text_encoder"])
    assert (unet.num_trainable, unet.num_vectors) == (300_416, 184 + 88)
    assert (text_encoder.num_trainable, text_encoder.num_vectors) == (138_240, 144)


def test_the_subject_file_is_at_most_two_million_bytes(models, tmp_path):
    from safetensors.torch import save_file

    vectors = {
        f"{layer.path.replace('text_model.', '')}.{kind}": torch.zeros(size)
        for layer in vf.plan(models).layers
        for kind, size in layer.vectors.items()
    }
    save_file(vectors, tmp_path / "v.safetensors", {f"vectorfit.{i}": "x" * 100 for i in range(20)})
    assert (tmp_path / "v.safetensors").stat().st_size <= 2_000_000
