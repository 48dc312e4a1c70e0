"""A weight with its factors: what is not kept is recovered, dtypes stay, and factors become shardable parameters."""

import copy
import pickle

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit.factored_weight import MATRICES
from vectorfit.layers import VectorFitConv2d, VectorFitLinear, VectorFitNorm
from vectorfit.pattern import DIAGONAL
from vectorfit.svd import decompose


@pytest.mark.parametrize("shape", [(20, 32), (32, 20), (24, 24)], ids=str)
def test_reading_the_factor_that_is_not_kept_recovers_it(shape):
    base = nn.Linear(shape[1], shape[0])
    layer = VectorFitLinear(base, ("sigma", "bias"), DIAGONAL, "square")
    U, _, Vh = decompose(base.weight.detach())
    absent, other = ("Vh", Vh) if shape[0] <= shape[1] else ("U", U)
    assert absent not in layer._buffers
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(getattr(one, absent), other, atol=1e-4, rtol=1e-4)
    layer.merge()  # while merged, from the base's own weight
    torch.testing.assert_close(getattr(layer, absent), other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.change(layer.sigma), base.weight.detach(), atol=1e-5, rtol=1e-3)
    with pytest.raises(AttributeError):
        _ = layer.nothing


def test_factorising_again_drops_what_was_kept_before():
    layer = VectorFitLinear(nn.Linear(8, 6), ("sigma",), DIAGONAL, "float32")
    layer.factorise(("sigma",), DIAGONAL, "square")
    assert "Vh" not in layer._buffers
    layer.factorise(("sigma",), DIAGONAL)
    assert layer._buffers["Vh"] is not None
    assert layer.tail is None


def test_shapes_are_those_of_the_weight_as_a_matrix():
    assert VectorFitLinear.shape_of(nn.Linear(3, 5)) == (5, 3)
    assert VectorFitConv2d.shape_of(nn.Conv2d(2, 5, 3)) == (5, 18)
    assert VectorFitNorm.shape_of(nn.LayerNorm(4)) == (4,)


@pytest.mark.parametrize("storage", ["float32", "bf16", "square"])
def test_factors_as_parameters_are_frozen_and_outside_state_dicts(storage):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4))
    vf.inject(model, vf.VectorFitConfig(factors=storage))
    before = dict(model.state_dict())
    x, target = torch.randn(3, 6), torch.randn(3, 4)
    expected = model(x)
    held = {n: b.clone() for n, b in model.named_buffers() if n.rpartition(".")[2] in MATRICES and b.numel()}
    vf.shard_factors(model)
    frozen = {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] in MATRICES}
    assert frozen.keys() == held.keys()
    assert all(torch.equal(frozen[name], held[name]) and not frozen[name].requires_grad for name in held)
    assert model.state_dict().keys() == before.keys()
    assert model.load_state_dict(before).missing_keys == []  # strict
    torch.testing.assert_close(model(x), expected)
    (model(x) - target).square().mean().backward()
    assert all(parameter.grad is None for parameter in frozen.values())
    assert vf.vector_parameters(model).keys() == {"0.sigma", "0.bias", "2.sigma", "2.bias"}
