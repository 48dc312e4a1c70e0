"""How much of a small change arrives in bfloat16, beside what rounding exact outputs alone would cost."""

import pytest
import torch
from torch import nn

from vectorfit.layers import VectorFitLinear

TOKENS = 1024
SHAPES = [(192, 192), (512, 128), (128, 512)]


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().double()


def arrived(layer: VectorFitLinear, size: float, *, training: bool = True) -> tuple[float, float]:
    """The error of dW x, relative to that of exact outputs rounded to bfloat16, and the share of dW x that arrives."""
    layer.train(training)
    x = torch.randn(TOKENS, layer.in_features).bfloat16()
    d_sigma = size * torch.randn(len(layer.sigma))

    def output(values: torch.Tensor) -> torch.Tensor:
        layer.d_sigma.data.copy_(values)
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            return layer(x).detach().double()

    weight, change = layer.weight.detach().double(), layer.U.double() * d_sigma @ layer.Vh.double()
    exact, without, wanted = x.double() @ (weight + change).T, x.double() @ weight.T, x.double() @ change.T
    got = output(d_sigma) - output(torch.zeros_like(d_sigma))
    cost_of_rounding = (rounded(exact) - rounded(without) - wanted).norm()
    return float((got - wanted).norm() / cost_of_rounding), float((got * wanted).sum() / wanted.square().sum())


def layer_of(out: int, columns: int, dtype: torch.dtype) -> VectorFitLinear:
    return VectorFitLinear(nn.Linear(columns, out, bias=False).to(dtype))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("training", [True, False])
def test_a_base_stored_in_bfloat16_loses_nothing_but_the_outputs_rounding(shape, size, training):
    error, share = arrived(layer_of(*shape, torch.bfloat16), size, training=training)
    assert error <= 1.2
    assert abs(share - 1) < 0.15 if size < 1e-3 else abs(share - 1) < 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "most", "bias"), [(1e-2, 1.5, 0.02), (1e-3, 2.0, 0.08), (1e-4, 3.5, 0.4)])
def test_a_float32_base_under_autocast_is_rounded_without_bias(shape, size, most, bias):
    """One product in bfloat16 rounds once more than its outputs, which costs the square root of two where d is large.

    A bias would be the same in every layer and draw; the mean over several tells it from noise.
    """
    errors, shares = zip(*(arrived(layer_of(*shape, torch.float32), size) for _ in range(6)), strict=True)
    assert sum(errors) / len(errors) <= most
    assert abs(sum(shares) / len(shares) - 1) < bias


def test_the_split_products_gradients_are_those_of_the_composed_weight():
    layer = layer_of(24, 16, torch.bfloat16).train()
    layer.d_sigma.data.normal_(std=0.1)
    x = torch.randn(5, 16).bfloat16().requires_grad_()
    weights = torch.randn(5, 24).bfloat16()
    (layer(x) * weights).sum().backward()
    composed = layer.weight.detach().double() + layer.U.double() * layer.d_sigma.detach().double() @ layer.Vh.double()
    torch.testing.assert_close(x.grad.double(), weights.double() @ composed, atol=0.05, rtol=0.05)
    G = weights.double().T @ x.detach().double()
    expected = (layer.U.double().T @ G @ layer.Vh.double().T).diag()
    torch.testing.assert_close(layer.d_sigma.grad.double(), expected, atol=0.1, rtol=0.05)
