"""The core's layers as PEFT's: several adapters, merged, scaled, disabled, copied."""

import copy
import pickle

import peft
import pytest
import torch
from packaging.version import Version
from torch import nn
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import vectorfit as vf
import vectorfit.peft as vp
from tests.vectorfit.peft.models import bert, disturb, logits, plain_state, tuned, words

OLD = pytest.mark.skipif(
    Version(peft.__version__) < Version("0.20"), reason="older PEFT writes the vectors of all adapters into every file"
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fresh_adapter_is_the_base_bit_for_bit(dtype):
    model = bert().to(dtype)
    expected = logits(model)
    wrapped = tuned(model)
    assert torch.equal(logits(wrapped), expected)
    assert all(vector.dtype == torch.float32 for vector in vf.vector_parameters(wrapped).values())
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    assert all(t.dtype == torch.float32 for layer in layers for t in (layer.U, layer.sigma, layer.Vh))


def test_disabled_is_the_base_nested_and_through_exceptions():
    expected = logits(bert())
    wrapped = disturb(tuned())
    changed = logits(wrapped)
    assert not torch.allclose(changed, expected)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), expected)
    with pytest.raises(KeyError), wrapped.disable_adapter():
        raise KeyError
    assert torch.equal(logits(wrapped), changed)
    wrapped.merge_adapter()
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), expected)


def test_merging_equals_unmerged_comes_back_bit_for_bit_and_leaves_a_plain_model(tmp_path):
    before = plain_state(bert())
    wrapped = disturb(tuned())
    expected = logits(wrapped)
    for _ in range(3):
        wrapped.merge_adapter()
        torch.testing.assert_close(logits(wrapped), expected, atol=1e-6, rtol=1e-5)
        wrapped.unmerge_adapter()
        assert torch.equal(logits(wrapped), expected)
    for name, value in wrapped.get_base_model().state_dict().items():
        if "vectorfit_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")])
    merged = wrapped.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), expected, atol=1e-6, rtol=1e-5)
    assert set(merged.state_dict()) == set(before)
    assert not any(isinstance(module, vp.VectorFitTunerLayer) for module in merged.modules())
    merged.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(merged))


def test_two_adapters_merge_together_or_one_after_the_other():
    wrapped = disturb(tuned(), 1)
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.set_adapter("other")
    disturb(wrapped, 2)
    wrapped.base_model.set_adapter(["default", "other"])
    both = logits(wrapped)
    for order in (["default", "other"], ["other", "default"]):
        for name in order:
            wrapped.merge_adapter([name])
        torch.testing.assert_close(logits(wrapped), both, atol=1e-6, rtol=1e-5)
        wrapped.unmerge_adapter()
    wrapped.merge_adapter(["default", "other"])
    torch.testing.assert_close(logits(wrapped), both, atol=1e-6, rtol=1e-5)


def test_a_merged_model_follows_strength_and_scale():
    wrapped, base = disturb(tuned()), logits(bert())
    whole = logits(wrapped)
    wrapped.merge_adapter()
    vf.set_strength(wrapped, 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)
    vf.set_strength(wrapped, 1.0)
    torch.testing.assert_close(logits(wrapped), whole, atol=1e-6, rtol=1e-5)
    for module in wrapped.modules():
        if isinstance(module, vp.VectorFitTunerLayer):
            module.set_scale("default", 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)


@pytest.mark.skipif(not hasattr(peft, "convert_to_lora"), reason="this PEFT has no conversion")
def test_peft_converts_it_to_lora_where_there_is_a_sigma():
    config, _ = peft.convert_to_lora(disturb(tuned()), rank=16)
    assert config.peft_type == "LORA"
    with pytest.raises(TypeError, match="do not support LoRA"):
        peft.convert_to_lora(disturb(tuned(variant="sigma_a+b")), rank=16)


@pytest.mark.parametrize("move", ["half", "bfloat16", "double"])
def test_vectors_and_factors_stay_float32_wherever_the_model_goes(move):
    wrapped = disturb(tuned())
    before = {name: vector.clone() for name, vector in vf.vector_parameters(wrapped).items()}
    wrapped.add_adapter("other", vp.VectorFitConfig())
    getattr(wrapped, move)()
    for name, vector in vf.vector_parameters(wrapped).items():
        assert torch.equal(vector, before[name])
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    for layer in layers:
        assert {t.dtype for t in (layer.U, layer.sigma, layer.Vh, *layer._all_vectors())} == {torch.float32}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant):
    found = []
    for checkpointing in (False, True):
        wrapped = disturb(tuned(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))).train()
        if checkpointing:
            wrapped.enable_input_require_grads()
            wrapped.gradient_checkpointing_enable({"use_reentrant": reentrant})
        wrapped(words(), labels=torch.tensor([0, 1, 0])).loss.backward()
        found.append({name: vector.grad for name, vector in vf.vector_parameters(wrapped).items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_copies_and_pickles_keep_the_result():
    wrapped = disturb(tuned())
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(logits(twin), logits(wrapped))
        disturb(twin, 7)
        assert not torch.equal(logits(twin), logits(wrapped))


def test_requires_grad_after_everything():
    wrapped = tuned()

    def trainable():
        return {name.rpartition(".")[2] for name, p in wrapped.named_parameters() if p.requires_grad}

    assert trainable() == {"default"}
    wrapped.add_adapter("other", vp.VectorFitConfig())
    assert trainable() == {"default"}
    wrapped.set_adapter("other")
    assert trainable() == {"other"}
    with wrapped.disable_adapter():
        assert trainable() == set()
    assert trainable() == {"other"}
    wrapped.delete_adapter("other")
    assert trainable() == {"default"}


def test_adapters_are_deleted_active_inactive_unknown_and_merged():
    expected = logits(bert())
    wrapped = disturb(tuned())
    first = logits(wrapped)
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.delete_adapter("other")
    assert torch.equal(logits(wrapped), first)
    if not OLD.args[0]:  # older PEFT deletes a merged adapter without a word
        wrapped.merge_adapter()
        with pytest.raises(ValueError, match="merge"):
            wrapped.delete_adapter("default")
        wrapped.unmerge_adapter()
        assert torch.equal(logits(wrapped), first)
    with pytest.raises(ValueError, match="unknown"):
        wrapped.delete_adapter("unknown")
    wrapped.add_adapter("other", vp.VectorFitConfig())
    wrapped.delete_adapter("default")
    wrapped.set_adapter("other")
    assert torch.equal(logits(wrapped), expected)
    assert not any("default" in name for name in wrapped.state_dict())
    wrapped.add_adapter("third", vp.VectorFitConfig())
    wrapped.delete_adapter("other")
    wrapped.delete_adapter("third")
    wrapped.add_adapter("wider", vp.VectorFitConfig(pattern="banded"))  # nothing is left that it could differ from


def test_transformers_conv1d_convolutions_and_norms_are_adapted():
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)).eval()
    expected = logits(gpt)
    wrapped = tuned(gpt, norm_biases=True)
    assert torch.equal(logits(wrapped), expected)
    assert {type(module).__name__ for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)} == {
        "Conv1D",
        "Norm",
    }
    disturb(wrapped)
    assert not torch.allclose(logits(wrapped), expected)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(wrapped), atol=1e-5, rtol=1e-4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 4, 4)
    before = net(x)
    wrapped = tuned(net, target_modules=["0"])
    assert torch.equal(wrapped(x), before)
    disturb(wrapped)
    after = wrapped(x)
    torch.testing.assert_close(wrapped.merge_and_unload()(x), after)


def test_scales_are_strengths():
    wrapped, base = disturb(tuned()), logits(bert())
    layers = [module for module in wrapped.modules() if isinstance(module, vp.VectorFitTunerLayer)]
    for layer in layers:
        layer.set_scale("default", 0.0)
    torch.testing.assert_close(logits(wrapped), base, atol=0, rtol=0)
    for layer in layers:
        layer.set_scale("default", 1.0)
        layer.scale_layer(0.5)
    half = logits(wrapped)
    for layer in layers:
        layer.unscale_layer()
    vf.set_strength(wrapped, 0.5)
    torch.testing.assert_close(logits(wrapped), half)
