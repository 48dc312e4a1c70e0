"""What all layers share: the base's attributes, strength, and what merging refuses."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit.layers import VectorFitLayer, VectorFitLinear


@pytest.fixture
def layer():
    made = VectorFitLinear(nn.Linear(5, 4))
    with torch.no_grad():
        for vector in made.vectors.values():
            vector.normal_()
    return made.eval()


def test_a_layer_answers_for_its_base(layer):
    assert (layer.in_features, layer.out_features) == (5, 4)
    assert isinstance(layer, VectorFitLayer)
    assert layer.vectors.keys() == {"sigma", "bias"}


def test_half_the_strength_is_half_the_change(layer):
    x = torch.randn(3, 5)
    with torch.no_grad():
        base = layer.base(x)
        whole = layer(x) - base
        layer.strength = 0.5
        torch.testing.assert_close(layer(x) - base, whole / 2, atol=1e-6, rtol=1e-5)
        layer.enabled = False
        assert torch.equal(layer(x), base)


def test_the_effective_weight_is_that_of_the_given_deltas(layer):
    weight, bias = layer.effective(None, layer.d_bias)
    assert weight is layer.weight
    assert torch.equal(bias, layer.bias + layer.d_bias)
    weight, bias = layer.effective(2 * layer.d_sigma.detach(), None)
    torch.testing.assert_close(weight - layer.weight, layer.change(2 * layer.d_sigma), atol=1e-6, rtol=1e-5)
    assert bias is layer.bias


def test_every_float_layer_can_be_merged(layer):
    assert layer.can_merge
    model = nn.Sequential(nn.Linear(5, 4))
    vf.inject(model)
    vf.merge(model)
    assert model[0].merged
