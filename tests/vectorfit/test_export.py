"""Exports: the best approximation there is, the exact difference, and plain models."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit.export import Naming, Place, bake, difference, lora
from vectorfit.modules import vectorfit_layers

OTHER = Naming(lambda path: f"net:{path.upper()}", "down", "up", bias="", alpha="scale")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture
def trained():
    net = Net().eval()
    vf.inject(net, vf.VectorFitConfig(target_modules=("conv", "fc")))
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_()
    return net


def changes(net):
    """dW of every layer as a matrix."""
    return {path: (layer.U * layer.d_sigma.detach()) @ layer.Vh for path, layer in vectorfit_layers(net)}


@pytest.mark.parametrize("rank", [1, 3, 99])
def test_the_lora_is_the_best_of_its_rank(trained, rank):
    export = lora(trained, rank)
    lost = whole = 0.0
    for path, change in changes(trained).items():
        up = export.tensors[f"base_model.model.{path}.lora_B.weight"].flatten(1)
        down = export.tensors[f"base_model.model.{path}.lora_A.weight"].flatten(1)
        assert len(down) == min(rank, min(change.shape))
        U, S, Vh = torch.linalg.svd(change, full_matrices=False)
        best = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        torch.testing.assert_close(up @ down, best, atol=1e-5, rtol=1e-4)
        lost, whole = lost + float((change - best).square().sum()), whole + float(change.square().sum())
    assert export.kept == pytest.approx((1 - lost / whole) ** 0.5, abs=1e-5)
    assert export.biases == 0


def test_a_naming_changes_the_names_alone(trained):
    plain, named = lora(trained, 2), lora(trained, 2, OTHER)
    assert named.kept == plain.kept
    assert len(named.tensors) == 6
    for path in ("conv", "fc"):
        for end, theirs in (("lora_A.weight", "down"), ("lora_B.weight", "up")):
            own = plain.tensors[f"base_model.model.{path}.{end}"]
            assert torch.equal(named.tensors[f"net:{path.upper()}.{theirs}"], own)
        assert named.tensors[f"net:{path.upper()}.scale"] == 2  # divided by the rank the factor is 1


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.norm = (nn.Linear(6, width) for width in (4, 4, 8, 4))


PLACES = {
    "q": Place("qkv", 0, of=4),
    "k": Place("qkv", 1, of=4),
    "v": Place("qkv", 2, shares=2, of=4),
    "norm": Place("scale_shift", swapped=True),
}


@pytest.mark.parametrize("left_out", [None, "k"])
def test_a_tool_that_joins_layers_gets_one_lora_of_them(left_out):
    """Its product is all changes one below the other; a layer that is not trained leaves zeros."""
    net = Attention()
    vf.inject(net, vf.VectorFitConfig(variant="sigma", exclude_modules=(left_out,) if left_out else ()))
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_()
    naming = Naming(PLACES.__getitem__, "down", "up", bias="", alpha="alpha")
    tensors, changed = lora(net, 3, naming).tensors, {"k": torch.zeros(4, 6), **changes(net)}
    whole, plain = lora(net, 99, naming).tensors, lora(net, 3).tensors
    assert tensors.keys() == {f"{name}.{end}" for name in ("qkv", "scale_shift") for end in ("up", "down", "alpha")}
    stacked = torch.cat([changed[name] for name in "qkv"])
    torch.testing.assert_close(whole["qkv.up"] @ whole["qkv.down"], stacked, atol=1e-5, rtol=1e-4)
    halves = torch.cat([changed["norm"][2:], changed["norm"][:2]])
    torch.testing.assert_close(whole["scale_shift.up"] @ whole["scale_shift.down"], halves, atol=1e-5, rtol=1e-4)
    assert tensors["qkv.alpha"] == len(tensors["qkv.down"]) == (6 if left_out else 9)
    best = plain["base_model.model.v.lora_B.weight"] @ plain["base_model.model.v.lora_A.weight"]
    torch.testing.assert_close((tensors["qkv.up"] @ tensors["qkv.down"])[8:], best, atol=1e-5, rtol=1e-4)


def test_strength_scales_the_export(trained):
    one = lora(trained, 2).tensors
    vf.set_strength(trained, 0.25)
    scaled = lora(trained, 2).tensors
    for name in ("conv", "fc"):
        key = f"base_model.model.{name}.lora"
        product = [(t[f"{key}_B.weight"].flatten(1) @ t[f"{key}_A.weight"].flatten(1)) for t in (one, scaled)]
        torch.testing.assert_close(product[1], 0.25 * product[0])


def test_the_difference_is_exact():
    unet = Net()
    models = {"unet": unet}
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    vf.inject(models, vf.VectorFitConfig(target_modules=("conv", "fc")))
    with torch.no_grad():
        for vector in vf.vector_parameters(models).values():
            vector.normal_()
    tensors = difference(models, OTHER.layer).tensors
    assert set(tensors) == {f"net:UNET.{name}.{kind}" for name in ("CONV", "FC") for kind in ("diff", "diff_b")}
    vf.merge(models)
    for name in ("conv", "fc"):
        layer = getattr(unet, name)
        torch.testing.assert_close(before[f"{name}.weight"] + tensors[f"net:UNET.{name.upper()}.diff"], layer.weight)
        torch.testing.assert_close(before[f"{name}.bias"] + tensors[f"net:UNET.{name.upper()}.diff_b"], layer.bias)


@pytest.mark.parametrize("merged", [False, True])
def test_baking_leaves_a_plain_model_of_the_same_outputs(trained, merged):
    x = torch.randn(2, 3, 6, 6)
    expected = trained(x)
    if merged:
        vf.merge(trained)
    bake(trained)
    assert {type(m) for m in trained.modules()} == {Net, nn.Conv2d, nn.Linear}
    assert torch.equal(trained(x), expected)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    plain = Net()
    plain.load_state_dict(trained.state_dict())
    assert torch.equal(plain(x), expected)
    assert not any("_vectorfit" in name for module in trained.modules() for name in vars(module))


def test_mistakes(trained):
    with pytest.raises(vf.VectorFitError, match="rank: got 0"):
        lora(trained, 0)
    with pytest.raises(vf.VectorFitError, match=r"naming: got 'kohya', expected a vectorfit\.export\.Naming"):
        lora(trained, 1, "kohya")
    with pytest.raises(vf.VectorFitError, match="no names for biases"):
        lora(trained, 1, OTHER, biases=True)
    with pytest.raises(vf.VectorFitError, match="load a subject first"):
        lora(Net(), 1)
