"""The record of an injection, found again from the models."""

import copy

import torch
from torch import nn

import vectorfit as vf
from vectorfit.record import injection_of

CONFIG = vf.VectorFitConfig(variant="sigma", modules_to_save=("classifier",))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.classifier(self.body(x).tanh())


class Wrapper(nn.Module):
    """As DDP wraps a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_a_plain_model_has_none():
    injection = injection_of(Net())
    assert (injection.layers, injection.heads, injection.parameters) == ({}, {}, {})
    assert injection.config == vf.VectorFitConfig()


def test_it_is_found_from_the_model_from_a_wrapper_and_from_several_by_name():
    net, other = Net(), Net()
    vf.inject({"a": net, "b": other}, CONFIG)
    for models, prefix in ((net, ""), (Wrapper(net), "module."), ({"a": net, "b": other}, "a.")):
        injection = injection_of(models)
        assert injection.config == CONFIG
        assert injection.layers[f"{prefix}body"] is net.body
        assert injection.heads[f"{prefix}classifier"].module is net.classifier
    assert list(injection.parameters) == [
        *("a.body.sigma", "b.body.sigma"),
        *("a.classifier.weight", "a.classifier.bias", "b.classifier.weight", "b.classifier.bias"),
    ]
    assert {**vf.vector_parameters(net), **vf.head_parameters(net)} == injection_of(net).parameters


def test_a_copy_has_a_record_of_its_own():
    net, x = Net().eval(), torch.randn(2, 6)
    base = net(x)
    vf.inject(net, CONFIG)
    clone = copy.deepcopy(net)
    head = injection_of(clone).heads["classifier"]
    assert head.module is clone.classifier
    with torch.no_grad():
        for parameter in injection_of(clone).parameters.values():
            parameter.add_(0.1)
    assert not torch.equal(clone(x), base)
    assert torch.equal(net(x), base)
    vf.remove(clone)
    assert torch.equal(clone(x), base)


def test_removing_from_a_wrapper_restores_what_was_trainable():
    net = Net()
    net.body.bias.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    vf.inject(net, CONFIG)
    vf.remove(Wrapper(net))
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == before
    assert type(net.body) is nn.Linear
    assert not any("_vectorfit" in name for module in net.modules() for name in vars(module))
