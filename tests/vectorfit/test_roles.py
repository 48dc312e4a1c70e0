"""Roles of layers by their paths, in the models of transformers and diffusers."""

import pytest
import torch

import vectorfit as vf
from vectorfit.roles import ATTENTION, FEED_FORWARD, OTHER, role

FAMILIES = {
    "BertModel": ("BertConfig", 73, {OTHER: 1}),  # the pooler is neither
    "CLIPTextModel": ("CLIPTextConfig", 72, {}),
    "GPT2Model": ("GPT2Config", 48, {}),
    "LlamaModel": ("LlamaConfig", 224, {}),
    "GemmaModel": ("GemmaConfig", 196, {}),
    "T5Model": ("T5Config", 96, {}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_roles_are_found_without_help(name):
    transformers = pytest.importorskip("transformers")
    config, count, others = FAMILIES[name]
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)())
    roles = [layer.role for layer in vf.plan(model).layers]
    assert len(roles) == count
    assert roles.count(OTHER) == others.get(OTHER, 0)
    assert roles.count(ATTENTION) >= count // 2
    assert roles.count(FEED_FORWARD) > 0


def test_roles_in_a_unet():
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert role(f"{block}.attn1.to_q") == role(f"{block}.attn2.to_out.0") == ATTENTION
    assert role(f"{block}.ff.net.0.proj") == role(f"{block}.ff.net.2") == FEED_FORWARD
    for path in (
        "down_blocks.0.attentions.0.proj_in",
        "time_embedding.linear_1",
        "down_blocks.0.resnets.0.time_emb_proj",
    ):
        assert role(path) == OTHER
