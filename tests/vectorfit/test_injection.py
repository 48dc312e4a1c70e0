import contextlib

import pytest
import torch
from torch import nn

import vectorfit as vf


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"to_q": nn.Linear(8, 8, bias=False), "to_k": nn.Linear(8, 8)})
        self.ff = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.norm = nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(x + self.attn["to_q"](x) * self.attn["to_k"](x).sigmoid())
        return self.classifier(x + self.ff(x))


def test_only_and_all_vectors_are_trainable():
    net = Net()
    plan = vf.inject(net)
    layers = ("attn.to_q", "attn.to_k", "ff.0", "ff.2")
    expected = {f"{layer}.sigma" for layer in layers} | {f"{layer}.bias" for layer in layers[1:]}
    assert set(vf.vector_parameters(net)) == expected
    trainable = {id(p) for p in net.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in vf.vector_parameters(net).values()}
    assert plan.num_trainable == sum(p.numel() for p in vf.vector_parameters(net).values()) == 4 * 8 + 8 + 16 + 8


def test_every_vector_moves_and_nothing_else_does():
    net = Net().train()
    vf.inject(net)
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(vf.vector_parameters(net).values(), lr=0.1)
    net(torch.randn(6, 8)).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in net.named_parameters() if p.requires_grad}


def test_remove_leaves_no_trace():
    net = Net()
    net.norm.requires_grad_(False)
    modules = {name: id(m) for name, m in net.named_modules()}
    required = {name: p.requires_grad for name, p in net.named_parameters()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    attributes = set(vars(net))
    vf.inject(net)
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_()
    vf.merge(net)
    vf.remove(net)
    assert {name: id(m) for name, m in net.named_modules()} == modules
    assert {name: p.requires_grad for name, p in net.named_parameters()} == required
    assert set(vars(net)) == attributes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_disabled_is_the_base_merged_or_not_and_survives_an_exception():
    net, x = Net().eval(), torch.randn(2, 8)
    base = net(x)
    vf.inject(net)
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_()
    adapted = net(x)
    for prepare in (lambda: None, lambda: vf.merge(net)):
        prepare()
        with contextlib.suppress(RuntimeError), vf.disabled(net):
            with vf.disabled(net):
                assert torch.equal(net(x), base)
            assert torch.equal(net(x), base)
            raise RuntimeError("on purpose")
        torch.testing.assert_close(net(x), adapted)


def test_several_models_share_one_name_space():
    models = {"unet": Net(), "text_encoder": Net()}
    vf.inject(models, vf.VectorFitConfig(target_modules=["to_k"]))
    kinds = ("sigma", "bias")
    assert set(vf.vector_parameters(models)) == {f"{m}.attn.to_k.{kind}" for m in models for kind in kinds}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_modules": ["to_qq"]}, "'to_qq' matches no linear layer.*'to_q'"),
        ({"target_modules": ["ff.1"]}, "ff.1, a GELU"),
        ({"exclude_modules": ["nothing_here"]}, "exclude_modules: 'nothing_here'"),
    ],
)
def test_unmatched_names_are_errors_that_help(config, message):
    with pytest.raises(vf.VectorFitError, match=message):
        vf.plan(Net(), vf.VectorFitConfig(**config))


def test_bad_configurations_are_refused():
    with pytest.raises(vf.VectorFitError, match="got 'sigmaa', expected one of vectorfit"):
        vf.VectorFitConfig(variant="sigmaa")
    with pytest.raises(vf.VectorFitError, match="expected a list"):
        vf.VectorFitConfig(target_modules="to_q")


def test_a_bare_linear_and_a_second_injection_are_refused():
    with pytest.raises(vf.VectorFitError, match="parent module"):
        vf.inject(nn.Linear(3, 3))
    net = Net()
    vf.inject(net)
    with pytest.raises(vf.VectorFitError, match="already"):
        vf.inject(net)


def test_a_layer_that_cannot_be_factorised_changes_nothing_and_is_named():
    net = Net()
    net.ff[2].weight.data[0, 0] = float("inf")
    with pytest.raises(vf.VectorFitError, match=r"ff\.2: .*NaN or infinite"):
        vf.inject(net)
    assert not vf.vector_parameters(net)
    assert all(p.requires_grad for p in net.parameters())


def test_the_sigma_variant_trains_no_bias():
    net = Net()
    vf.inject(net, vf.VectorFitConfig(variant="sigma"))
    assert all(name.endswith(".sigma") for name in vf.vector_parameters(net))


def test_the_plan_prints_as_a_table():
    text = str(vf.plan(Net()))
    assert "ff.0" in text
    assert text.splitlines()[-1] == "7 vectors in 4 layers, 64 of 459 parameters (13.9434 %)"
