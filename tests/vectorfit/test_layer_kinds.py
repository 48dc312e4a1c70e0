"""Every kind of layer is trained exactly, and what cannot be is refused with its path and the reason."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vectorfit as vf
from vectorfit.layers import VectorFitConv1D, VectorFitConv2d, VectorFitLinear, VectorFitNorm
from vectorfit.modules import vectorfit_layers

CONVOLUTIONS = (
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2},
    {"padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1},
    {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
    {"bias": False},
)


def convolution(**options):
    return nn.Conv2d(**{"in_channels": 3, "out_channels": 5, "kernel_size": 3, **options})


def randomized(layer):
    with torch.no_grad():
        for vector in layer.vectors.values():
            vector.normal_(std=0.2)
    return layer


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("size", [6, 40], ids=["few positions", "many positions"])
def test_a_convolution_and_its_gradients_equal_the_dense_reference(options, size):
    base = convolution(**options)
    layer, x = randomized(VectorFitConv2d(base)).train(), torch.randn(2, 3, size, size, requires_grad=True)
    y = layer(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    dx = x.grad.clone()
    x.grad = None
    sigma = layer.d_sigma.detach().clone().requires_grad_()
    bias = None if layer.d_bias is None else (base.bias + layer.d_bias).detach().requires_grad_()
    matrix = base.weight.detach().flatten(1) + layer.U @ torch.diag(sigma) @ layer.Vh
    expected = base._conv_forward(x, matrix.view_as(base.weight), bias)
    (expected * weights).sum().backward()
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(dx, x.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.d_sigma.grad, sigma.grad, atol=2e-3, rtol=1e-4)
    if bias is not None:
        torch.testing.assert_close(layer.d_bias.grad, bias.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", CONVOLUTIONS[:5], ids=str)
def test_a_fresh_convolution_is_the_base_bit_for_bit(options, dtype):
    base = convolution(**options).to(dtype).eval()
    x = torch.randn(2, 3, 8, 8).to(dtype)
    layer = VectorFitConv2d(base)
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        assert torch.equal(layer(x), base(x))
    layer.merge()
    assert torch.equal(layer(x), base(x))


class Block(nn.Module):
    """One of each, as models hold them."""

    def __init__(self):
        super().__init__()
        conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.c_fc = conv1d(10, 6)
        self.proj = nn.Linear(10, 4)
        self.norms = nn.ModuleList([nn.LayerNorm(4)])

    def forward(self, x):
        return self.norms[0](self.proj(self.c_fc(self.conv(x).flatten(2).transpose(1, 2).contiguous())))


CONFIG = vf.VectorFitConfig(target_modules=("conv", "c_fc", "proj", "norms.0"))


def test_all_kinds_in_one_model_from_identity_to_merging_and_back():
    model, x = Block().eval(), torch.randn(2, 3, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base = model(x)
    plan = vf.inject(model, CONFIG)
    kinds = [type(layer) for layer in (model.conv, model.c_fc, model.proj, model.norms[0])]
    assert kinds == [VectorFitConv2d, VectorFitConv1D, VectorFitLinear, VectorFitNorm]
    assert [layer.vectors for layer in plan.layers] == [
        {"sigma": 6, "bias": 6},
        {"sigma": 6, "bias": 10},
        {"sigma": 4, "bias": 4},
        {"bias": 4},
    ]
    assert torch.equal(model(x), base)
    for _, layer in vectorfit_layers(model):
        randomized(layer)
    unmerged = model(x)
    assert not torch.allclose(unmerged, base)
    torch.testing.assert_close(model.train()(x), unmerged, atol=1e-5, rtol=1e-4)  # by the other way of computing
    vf.merge(model.eval())
    assert torch.equal(model(x), unmerged)
    with vf.disabled(model):
        assert torch.equal(model(x), base)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(clone(x), unmerged)
        vf.unmerge(clone)
        assert all(torch.equal(value, before[name]) for name, value in clone.state_dict().items() if name in before)
    vf.remove(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(x), base)


def test_conv1d_gradients_equal_the_dense_reference():
    model = Block().train()
    base = model.c_fc
    layer = randomized(VectorFitConv1D(base)).train()
    for tokens in (2, 300):
        x, weights = torch.randn(tokens, 6), torch.randn(tokens, 10)
        layer.zero_grad()
        (layer(x) * weights).sum().backward()
        sigma = layer.d_sigma.detach().clone().requires_grad_()
        y = x @ (base.weight.detach().T + layer.U @ torch.diag(sigma) @ layer.Vh).T
        (y * weights).sum().backward()
        torch.testing.assert_close(layer.d_sigma.grad, sigma.grad, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(layer.d_bias.grad, weights.sum(0), atol=1e-3, rtol=1e-4)


def test_a_norm_trains_its_bias_alone():
    layer = randomized(VectorFitNorm(nn.LayerNorm(4).requires_grad_(False), ("bias",)))
    x = torch.randn(3, 4)
    layer(x).sum().backward()
    assert layer.d_bias.grad.tolist() == [3, 3, 3, 3]
    assert layer.weight.grad is None
    torch.testing.assert_close(layer(x), F.layer_norm(x, (4,)) + layer.d_bias)


def test_files_carry_every_kind(tmp_path):
    model, x = Block().eval(), torch.randn(2, 3, 4, 4)
    fresh = copy.deepcopy(model)
    vf.inject(model, CONFIG)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_(std=0.2)
    vf.save_vectors(model, tmp_path / "v.safetensors", base_model="block")
    vf.load_vectors(fresh, tmp_path / "v.safetensors")
    assert torch.equal(fresh(x), model(x))


def test_a_shared_layer_is_replaced_wherever_it_stands():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared, nn.Linear(4, 2))})
    vf.inject(model)
    assert model["a"][0] is model["b"][0]
    assert isinstance(model["a"][0], VectorFitLinear)
    assert set(vf.vector_parameters(model)) == {
        f"{path}.{kind}" for path in ("a.0", "b.1") for kind in ("sigma", "bias")
    }
    vf.remove(model)
    assert model["a"][0] is model["b"][0] is shared


def refused(model, **options) -> str:
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(vf.VectorFitError) as caught:
        vf.inject(model, vf.VectorFitConfig(**options))
    assert {name: id(module) for name, module in model.named_modules()} == before
    return str(caught.value)


def test_what_cannot_be_adapted_is_named_with_the_reason():
    grouped = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, groups=2), "fc": nn.Linear(4, 4)})
    assert refused(grouped, target_modules=["conv"]).startswith("conv: a convolution of 2 groups")
    attention = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    assert "MultiheadAttention reads the weight" in refused(attention, target_modules=["out_proj"])
    tied = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "fc": nn.Linear(4, 6, bias=False)})
    tied["fc"].weight = tied["embedding"].weight
    assert "fc: its weight is tied with embedding" in refused(tied, target_modules=["fc"])
    tied["other"] = nn.Linear(4, 4)
    assert [layer.path for layer in vf.plan(tied).layers] == ["other"]  # not named, it is left as an output head
    quantised = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    quantised["fc"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    assert "fc: its weight is quantised (torch.int8)" in refused(quantised)
    assert "leave it out with exclude_modules" in refused(quantised)
    with torch.device("meta"):
        assert "meta device" in refused(nn.ModuleDict({"fc": nn.Linear(4, 4)}))
    embedding = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "fc": nn.Linear(4, 4)})
    assert "'embedding' names embedding, a" in refused(embedding, target_modules=["embedding"])
    assert "nearest: 'embedding'" in refused(embedding, modules_to_save=["embeding"])


def test_subclasses_and_attention_projections_are_left_alone_by_default():
    class Odd(nn.Linear):
        pass

    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "odd": Odd(4, 4), "fc": nn.Linear(4, 4)})
    assert [layer.path for layer in vf.plan(model).layers] == ["fc"]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.classifier(self.body(x).tanh())


def test_heads_are_trained_whole_counted_apart_and_saved_with_the_vectors(tmp_path):
    model, x = Classifier().eval(), torch.randn(4, 6)
    fresh, base = copy.deepcopy(model), model(x)
    plan = vf.inject(model, vf.VectorFitConfig(modules_to_save=("classifier",)))
    assert (plan.num_trainable, plan.num_saved) == (12, 21)
    assert "classifier" in str(plan)
    assert set(vf.head_parameters(model)) == {"classifier.weight", "classifier.bias"}
    assert not set(vf.head_parameters(model)) & set(vf.vector_parameters(model))
    parameters = {**vf.vector_parameters(model), **vf.head_parameters(model)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in parameters.values()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.3)
    trained = model(x)
    vf.save_vectors(model, tmp_path / "v.safetensors", base_model="c")
    vf.load_vectors(fresh, tmp_path / "v.safetensors")
    assert torch.equal(fresh(x), trained)
    with vf.disabled(fresh):
        assert torch.equal(fresh(x), base)
    assert torch.equal(fresh(x), trained)
    with pytest.raises(vf.VectorFitError, match="brings classifier whole"):
        vf.set_subjects(fresh, [(tmp_path / "v.safetensors", 1.0)] * 2)
    vf.set_subjects(fresh, [])
    assert torch.equal(fresh(x), base)
    vf.remove(model)
    assert torch.equal(model(x), base)
    assert not any("_vectorfit" in name for module in model.modules() for name in vars(module))
