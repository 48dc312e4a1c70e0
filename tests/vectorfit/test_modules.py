"""Modules by their paths, of one model or several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vectorfit as vf
from vectorfit.layers import VectorFitLayer
from vectorfit.modules import is_named, join, named_models, named_modules, vectorfit_layers, weight_owners

PARTS = st.lists(st.sampled_from(["", "unet", "0", "attn1.to_q"]))


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.GELU()))


@given(PARTS, PARTS)
def test_joining_leaves_the_empty_parts_out_and_is_associative(one, other):
    assert join(join(*one), join(*other)) == join(*one, *other)
    assert ".." not in join(*one)


def test_one_model_alone_has_no_name(net):
    assert named_models(net) == {"": net}
    assert named_models({"unet": net}) == {"unet": net}
    own = [path for path, _ in net.named_modules()]
    assert [path for path, _ in named_modules(net)] == own
    assert [path for path, _ in named_modules({"unet": net})] == [join("unet", path) for path in own]


def test_what_is_inside_an_adapted_layer_is_left_out(net):
    vf.inject(net)
    layer = net[0]
    layer.register_module("inner", nn.Linear(2, 2))
    paths = [path for path, _ in named_modules(net)]
    assert paths == ["", "0", "1", "1.0", "1.1"]
    assert dict(vectorfit_layers(net)) == {"0": layer, "1.0": net[1][0]}
    assert all(isinstance(found, VectorFitLayer) for _, found in vectorfit_layers({"a": net, "b": nn.GELU()}))


def test_a_name_is_a_path_or_its_last_parts():
    path = "block.attn1.to_q"
    assert [is_named(path, name) for name in ("to_q", "attn1.to_q", path)] == [True] * 3
    assert [is_named(path, name) for name in ("q", "to_k", "attn1", "1.to_q", "")] == [False] * 5


def test_a_tied_weight_has_all_its_owners(net):
    net[1][0].weight = net[0].weight
    owners = weight_owners({"m": net})
    assert owners[id(net[0].weight)] == ["m.0", "m.1.0"]
    assert owners[id(net[0].bias)] == ["m.0"]
    assert len(owners) == 3
