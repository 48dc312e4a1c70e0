import copy
import pickle

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit.layers import VectorFitLinear
from vectorfit.pattern import DIAGONAL
from vectorfit.products import DenseProduct, FactoredProduct, factored_is_cheaper
from vectorfit.svd import decompose

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def trained(base: nn.Linear) -> VectorFitLinear:
    layer = VectorFitLinear(base)
    with torch.no_grad():
        for vector in layer.vectors.values():
            vector.normal_(std=0.1)
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_zero_deltas_are_the_base_bit_for_bit_in_eval(dtype, bias, grad):
    base = nn.Linear(12, 20, bias=bias).to(dtype).eval()
    x = torch.randn(3, 5, 12).to(dtype)
    layer = VectorFitLinear(base)
    with torch.set_grad_enabled(grad):
        assert torch.equal(layer(x), base(x))


def test_zero_deltas_are_the_base_bit_for_bit_under_autocast():
    base = nn.Linear(12, 20).eval()
    x = torch.randn(3, 5, 12)
    layer = VectorFitLinear(base)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deltas_and_factors_stay_float32_whatever_the_base(dtype):
    layer = trained(nn.Linear(6, 4).to(dtype))
    before = [t.clone() for t in (*layer.vectors.values(), layer.U, layer.sigma, layer.Vh)]
    for moved in (layer, layer.half(), layer.bfloat16(), layer.double()):
        after = (*moved.vectors.values(), moved.U, moved.sigma, moved.Vh)
        assert all(t.dtype == torch.float32 and torch.equal(t, was) for t, was in zip(after, before, strict=True))
    assert layer.weight.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3)])
def test_gradcheck_of_both_ways_in_float64(shape):
    rows, columns = shape
    weight = torch.randn(shape, dtype=torch.float64)
    U, sigma, Vh = (factor.double() for factor in decompose(weight))
    x = torch.randn(2, 4, columns, dtype=torch.float64, requires_grad=True)
    d_sigma = torch.randn(len(sigma), dtype=torch.float64, requires_grad=True)
    bias = torch.randn(rows, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, s, b: DenseProduct.apply(x, s, b, weight, U, Vh, DIAGONAL, None), (x, d_sigma, bias)
    )
    assert torch.autograd.gradcheck(
        lambda x, s: FactoredProduct.apply(x, s, sigma, U, Vh, DIAGONAL, None), (x, d_sigma)
    )


@pytest.mark.parametrize("tokens", [2, 200])
def test_gradient_is_the_diagonal_of_UtGV(tokens):
    layer = trained(nn.Linear(9, 6)).train()
    x, weights = torch.randn(tokens, 9), torch.randn(tokens, 6)
    (layer(x) * weights).sum().backward()
    G = weights.T @ x  # dL/dW of y = x W^T
    torch.testing.assert_close(layer.d_sigma.grad, (layer.U.T @ G @ layer.Vh.T).diag(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.d_bias.grad, weights.sum(0), atol=1e-4, rtol=1e-4)


def test_nothing_but_the_vectors_gets_a_gradient():
    layer = trained(nn.Linear(9, 6)).train()
    layer.weight.requires_grad_(False)
    layer.bias.requires_grad_(False)
    layer(torch.randn(4, 9)).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"d_sigma", "d_bias"}


def test_both_ways_agree_and_the_cheaper_is_taken():
    layer = trained(nn.Linear(16, 16)).train()
    few, many = torch.randn(4, 16), torch.randn(400, 16)
    assert factored_is_cheaper(4, 16, 16)
    assert not factored_is_cheaper(400, 16, 16)
    with torch.no_grad():
        weight, bias = layer.composed()
    for x in (few, many):
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight, bias), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_equals_unmerged_and_unmerge_restores_the_bits(dtype):
    layer = trained(nn.Linear(10, 14).to(dtype)).eval()
    x = torch.randn(3, 10).to(dtype)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    with torch.no_grad():
        before = layer(x)
        layer.merge()
        layer.merge()
        if dtype == torch.float32:
            assert torch.equal(layer(x), before)
        else:  # unmerged, the change is applied beside the weight; merged, the sum is rounded to the weight's dtype
            step = torch.finfo(dtype).eps
            torch.testing.assert_close(layer(x), before, atol=8 * step, rtol=8 * step)
        assert not torch.equal(layer.weight, weight)
        layer.unmerge()
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, bias)


def test_a_fresh_weight_after_updates_that_bypass_version_counters():
    layer = trained(nn.Linear(4, 4)).eval()
    x = torch.randn(2, 4)
    with torch.no_grad():
        before = layer(x)
        layer.d_sigma.data.add_(1.0)
        assert not torch.equal(layer(x), before)


def test_strength_scales_the_change_linearly():
    model = nn.Sequential(nn.Linear(6, 6))
    vf.inject(model)
    with torch.no_grad():
        model[0].d_sigma.normal_()
        weights = []
        for strength in (0.0, 1.0, 2.0):
            vf.set_strength(model, strength)
            weights.append(model[0].composed()[0])
    torch.testing.assert_close(weights[2] - weights[0], 2 * (weights[1] - weights[0]), atol=1e-5, rtol=1e-5)
    assert torch.equal(weights[0], model[0].weight)


def test_deepcopy_and_pickle_keep_the_result():
    layer, x = trained(nn.Linear(5, 8)).eval(), torch.randn(2, 5)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(clone(x), layer(x))
        clone.base.weight.data.zero_()  # the clone's base is the clone's own
        assert torch.equal(clone.weight, torch.zeros(8, 5))
        assert layer.weight.abs().sum() > 0
