"""PEFT's configuration of the method: its choices are the core's, and PEFT knows it by name."""

import copy
import importlib
import pickle

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import vectorfit as vf
import vectorfit.peft as vp
from tests.vectorfit.peft.models import bert, logits, tuned, unet


@pytest.mark.parametrize(("variant", "sigma", "bias"), [("sigma_a", 8, 0), ("sigma_a+b", 8, 10), ("sigma", 13, 0)])
def test_variants_train_what_they_are_named_for(variant, sigma, bias):
    names = vf.vector_parameters(tuned(variant=variant))
    assert sum(".sigma." in name for name in names) == sigma
    assert sum(".bias." in name for name in names) == bias


def test_one_configuration_serves_for_several_models():
    config = vp.VectorFitConfig()
    for model in (bert(0), bert(1), GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)).eval()):
        expected = logits(model)
        assert torch.equal(logits(peft.get_peft_model(model, config).eval()), expected)
    assert (config.target_modules, config.base_sha256, config.base_sketch) == (None, None, None)
    for _ in range(2):
        unet().add_adapter(config, adapter_name="a")


def test_registering_twice_is_registering_once_and_a_member_of_pefts_own_is_left():
    before = list(peft.PeftType)
    for module in (vp.config, vp):
        importlib.reload(module)
    assert list(peft.PeftType) == before
    member = peft.PeftType("VECTORFIT")
    assert pickle.loads(pickle.dumps(member)) is member is copy.deepcopy(member) is peft.PeftType.VECTORFIT
    assert vp.config.peft_type_of_vectorfit() is member
