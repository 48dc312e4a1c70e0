"""The biases of attention's keys: no output depends on them, so they are not trained; old files that have them load."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, DebertaV2Config, DebertaV2Model

import vectorfit as vf
from vectorfit.idle_biases import KEYS, idle_biases

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
MODELS = {
    "bert": SIZES,
    "roberta": {**SIZES, "max_position_embeddings": 32},
    "xlm-roberta": {**SIZES, "max_position_embeddings": 32},
    "camembert": {**SIZES, "max_position_embeddings": 32},
    "electra": SIZES,
    "distilbert": DISTIL,
}


def model_of(name):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(name, vocab_size=40, **MODELS[name])).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the start, where attention is even
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def answer(model):
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return model(ids, attention_mask=mask).last_hidden_state[mask.bool()]


@pytest.mark.parametrize("name", MODELS)
def test_no_output_depends_on_an_idle_bias_and_any_other_bias_counts(name):
    model = model_of(name)
    layers, idle = dict(model.named_modules()), idle_biases(model)
    assert len(idle) == 2
    before = answer(model)
    with torch.no_grad():
        for path in idle:
            layers[path].bias.add_(torch.randn_like(layers[path].bias))
    torch.testing.assert_close(answer(model), before, rtol=1e-9, atol=1e-9)
    beside = next(path for path in layers if path.endswith(("query", "q_lin")))
    with torch.no_grad():
        layers[beside].bias.add_(torch.randn_like(layers[beside].bias))
    assert (answer(model) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_their_gradient_is_rounding_noise(name):
    model = model_of(name)
    answer(model).square().sum().backward()
    layers, idle = dict(model.named_modules()), idle_biases(model)
    for path in idle:
        query = layers[path.replace("k_lin", "q_lin").replace(".key", ".query")]
        assert layers[path].bias.grad.abs().max() < 1e-9 < 1e-6 < query.bias.grad.abs().max()


def test_debertas_keys_meet_positions_too_so_their_biases_count():
    torch.manual_seed(0)
    config = DebertaV2Config(vocab_size=40, **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"])
    config.share_att_key, config.position_buckets, config.max_relative_positions = True, 8, 32
    model = DebertaV2Model(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = answer(model)
    keys = [module for path, module in model.named_modules() if path.endswith("key_proj")]
    with torch.no_grad():
        keys[0].bias.add_(torch.randn_like(keys[0].bias))
    assert (answer(model) - before).abs().max() > 1e-3
    assert not idle_biases(model)


def test_the_plan_leaves_them_out_and_says_so():
    model = model_of("bert")
    plan, whole = vf.plan(model), vf.plan(model, vf.VectorFitConfig(idle_biases=True))
    assert set(plan.idle) == idle_biases(model)
    assert whole.num_trainable - plan.num_trainable == 2 * 16
    assert "without the biases of 2 attention keys" in plan.summary()
    assert "without" not in whole.summary()
    assert not vf.plan(model, vf.VectorFitConfig(variant="sigma")).idle
    vf.inject(model)
    names = vf.vector_parameters(model).keys()
    assert not any(f"{path}.bias" in names for path in plan.idle)
    assert all(f"{path}.sigma" in names for path in plan.idle)


def test_a_file_that_has_them_still_loads(tmp_path):
    model = model_of("bert").float()
    other = copy.deepcopy(model)
    vf.inject(model, vf.VectorFitConfig(idle_biases=True))
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.copy_(torch.randn_like(vector))
    vf.save_vectors(model, tmp_path / "old.safetensors", base_model="toy")
    vf.inject(other)  # as a new training does
    vf.load_vectors(other, tmp_path / "old.safetensors")
    mine, theirs = vf.vector_parameters(model), vf.vector_parameters(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(vector, theirs[name]) for name, vector in mine.items())


def test_every_attention_of_the_list_exists():
    found = {type(module).__name__ for name in MODELS for module in model_of(name).modules()}
    assert KEYS.keys() <= found
