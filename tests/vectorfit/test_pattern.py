"""SVFT's patterns in the same frame, each against a dense M."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vectorfit as vf
from vectorfit import pattern as pattern_module
from vectorfit.export import bake, difference, lora
from vectorfit.layers import VectorFitConv2d, VectorFitLinear
from vectorfit.pattern import PATTERNS, pattern_named
from vectorfit.products import DenseProduct, FactoredProduct
from vectorfit.svd import decompose

WIDER = tuple(pattern for pattern in PATTERNS if pattern != "plain")
SVFT = ("banded", "random", "top_k")


def model(pattern, width=2, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 7))
    vf.inject(net, vf.VectorFitConfig(pattern=pattern, pattern_width=width))
    return net


def disturb(net):
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_(std=0.1)
    return net


def dense_M(layer):
    M = torch.zeros(len(layer.Vh), len(layer.Vh), dtype=torch.float64)
    if layer.positions is None:
        return M + layer.d_sigma.detach().double().diag()
    M[tuple(layer.positions)] = layer.d_sigma.detach().double()
    return M


@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_pattern_starts_as_the_base_bit_for_bit(pattern):
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 7)).eval(), torch.randn(3, 12)
    expected = plain(x)
    vf.inject(plain, vf.VectorFitConfig(pattern=pattern))
    assert torch.equal(plain(x), expected)


@given(r=st.integers(1, 40), width=st.integers(1, 50), pattern=st.sampled_from(WIDER), extra=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_no_entry_is_taken_twice_and_none_lies_outside(r, width, pattern, extra):
    U, _, Vh = decompose(torch.randn(r + extra, r, generator=torch.Generator().manual_seed(r)))
    taken = pattern_named(pattern, width)
    rows, columns = taken.positions(U, Vh)
    places = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(places) == len(rows) == taken.size(r)
    assert all(0 <= row < r and 0 <= column < r for row, column in places)


@given(r=st.integers(1, 40), width=st.integers(1, 50), pattern=st.sampled_from(SVFT))
def test_svfts_patterns_have_as_many_entries_as_the_band(r, width, pattern):
    assert pattern_named(pattern, width).size(r) == sum(abs(i - j) <= width for i in range(r) for j in range(r))


def test_the_band_is_a_band_and_the_lot_scatters():
    U, _, Vh = decompose(torch.randn(30, 30))
    rows, columns = pattern_named("banded", 2).positions(U, Vh)
    assert (rows - columns).abs().max() == 2
    rows, columns = pattern_named("random", 2).positions(U, Vh)
    assert (rows - columns).abs().max() > 20
    assert torch.equal(rows, pattern_named("random", 2).positions(*decompose(torch.randn(40, 30))[::2])[0])


def test_top_k_goes_by_magnitude():
    torch.manual_seed(0)
    U, _, Vh = decompose(torch.randn(16, 16))
    alignment = (U.T @ Vh.T).abs()
    rows, columns = pattern_named("top_k", 1).positions(U, Vh)
    chosen = torch.zeros(16, 16, dtype=torch.bool)
    chosen[rows, columns] = True
    assert alignment[chosen].min() >= alignment[~chosen].max()
    assert (U.T @ Vh.T)[chosen].min() < 0  # negative alignments count as well


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4)])
@pytest.mark.parametrize("gathered", [0, pattern_module.GATHERED], ids=["entries", "whole"])
def test_gradcheck_and_the_dense_reference_in_float64(pattern, shape, gathered, monkeypatch):
    monkeypatch.setattr(pattern_module, "GATHERED", gathered)
    torch.manual_seed(0)
    out, columns = shape
    layer = VectorFitLinear(nn.Linear(columns, out), pattern=pattern_named(pattern, 1))
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    U, sigma, Vh = (factor.double() for factor in (layer.U, layer.sigma, layer.Vh))
    values = torch.randn(len(layer.d_sigma), dtype=torch.float64)
    x = torch.randn(2, 3, columns, dtype=torch.float64, requires_grad=True)
    M = torch.diag(values) if layer.positions is None else torch.zeros(len(Vh), len(Vh), dtype=torch.float64)
    if layer.positions is not None:
        M[tuple(layer.positions)] = values
    values.requires_grad_()

    def dense(x, values):
        return DenseProduct.apply(x, values, bias, weight, U, Vh, layer.pattern, layer.positions)

    def factored(x, values):
        return FactoredProduct.apply(x, values, sigma, U, Vh, layer.pattern, layer.positions)

    assert torch.autograd.gradcheck(dense, (x, values))
    assert torch.autograd.gradcheck(factored, (x, values))
    torch.testing.assert_close(dense(x, values), x @ (weight + U @ M @ Vh).T + bias)
    torch.testing.assert_close(factored(x, values), x @ (U @ (sigma.diag() + M) @ Vh).T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_the_same_with_the_whole_of_M_and_with_its_entries(dtype, monkeypatch):
    torch.manual_seed(0)
    taken = pattern_named("random", 1)
    positions = taken.positions(torch.eye(30), torch.eye(30))
    X, B, values = torch.randn(40, 30, dtype=dtype), torch.randn(40, 30, dtype=dtype), torch.randn(positions.shape[1])
    found = []
    for gathered in (0, pattern_module.GATHERED):
        monkeypatch.setattr(pattern_module, "GATHERED", gathered)
        assert taken.work(30) == (positions.shape[1] if gathered == 0 else 900)
        found.append((taken.times(X, values.to(dtype), positions), taken.entries(X, B, positions)))
    (one, one_entries), (whole, whole_entries) = found
    near = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(one, whole, **near)
    torch.testing.assert_close(one_entries, whole_entries, **near)
    assert one_entries.dtype == whole_entries.dtype == torch.float32


@pytest.mark.parametrize("pattern", WIDER)
def test_merging_exporting_and_baking_carry_a_wider_pattern(pattern):
    net, x = disturb(model(pattern)).eval(), torch.randn(5, 12)
    expected = net(x)
    vf.merge(net)
    torch.testing.assert_close(net(x), expected)
    vf.unmerge(net)
    whole = lora(net, 20, biases=True)
    assert whole.kept == pytest.approx(1, abs=1e-6)
    first = net[0]
    exact = first.U.double() @ dense_M(first) @ first.Vh.double()
    name = "base_model.model.0.lora_{}.weight"
    torch.testing.assert_close(
        (whole.tensors[name.format("B")] @ whole.tensors[name.format("A")]).double(), exact, atol=1e-6, rtol=1e-5
    )
    singular = torch.linalg.svdvals(exact)
    best = (lora(net[:1], 3).kept) ** 2
    assert best == pytest.approx(float(singular[:3].square().sum() / singular.square().sum()), rel=1e-5)
    torch.testing.assert_close(difference(net).tensors["0.diff"].double(), exact, atol=1e-6, rtol=0)
    bake(net)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("pattern", WIDER)
def test_a_file_of_a_wider_pattern_loads_into_a_plain_model(pattern, tmp_path):
    net, x = disturb(model(pattern, 3)).eval(), torch.randn(5, 12)
    vf.save_vectors(net, tmp_path / "v.safetensors", base_model="test")
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 7)).eval()
    vf.load_vectors(fresh, tmp_path / "v.safetensors")
    assert torch.equal(fresh(x), net(x))
    vf.save_vectors(fresh, tmp_path / "again.safetensors", base_model="test")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "v.safetensors").read_bytes()
    other = disturb(model("plain"))
    vf.save_vectors(other, tmp_path / "plain.safetensors", base_model="test")
    with pytest.raises(vf.VectorFitError, match="pattern"):
        vf.set_subjects(fresh, [(tmp_path / "v.safetensors", 1.0), (tmp_path / "plain.safetensors", 1.0)])
    vf.load_vectors(fresh, tmp_path / "plain.safetensors")
    assert torch.equal(fresh(x), other.eval()(x))


@pytest.mark.parametrize("pattern", WIDER)
def test_it_trains_on_a_whole_model_and_a_convolution(pattern):
    net = model(pattern).train()
    planned = vf.plan(model("plain"), vf.VectorFitConfig(pattern=pattern, pattern_width=2)).layers
    sizes = {f"{layer.path}.{kind}": size for layer in planned for kind, size in layer.vectors.items()}
    assert {name: len(vector) for name, vector in vf.vector_parameters(net).items()} == sizes
    net(torch.randn(64, 12)).square().sum().backward()
    assert all(vector.grad.abs().sum() > 0 for vector in vf.vector_parameters(net).values())
    base = nn.Conv2d(3, 5, 3)
    layer, x = VectorFitConv2d(base, pattern=pattern_named(pattern, 1)), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        layer.d_sigma.normal_()
    matrix = layer.matrix(base.weight).double() + layer.U.double() @ dense_M(layer) @ layer.Vh.double()
    expected = nn.functional.conv2d(x, matrix.float().view_as(base.weight), base.bias)
    torch.testing.assert_close(layer(x), expected)
    layer.train()(x).sum().backward()
    assert layer.d_sigma.grad.abs().sum() > 0


def test_what_cannot_be_is_said():
    with pytest.raises(vf.VectorFitError, match=f"pattern: got 'sparse', expected one of {', '.join(PATTERNS)}"):
        vf.VectorFitConfig(pattern="sparse")
    with pytest.raises(vf.VectorFitError, match="pattern_width: got 0"):
        vf.VectorFitConfig(pattern_width=0)
