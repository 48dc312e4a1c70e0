"""The products and their gradients, against finite differences and the dense matrix, in float64."""

import pytest
import torch
from torch import nn

from vectorfit.pattern import PATTERNS, pattern_named
from vectorfit.products import (
    ComposedWeight,
    DenseProduct,
    FactoredProduct,
    SplitProduct,
    compose,
    factored_is_cheaper,
)

SHAPES = ((5, 7), (7, 5), (6, 6), (1, 4))


def case(name, out, columns):
    """W0 and its factors, the pattern with its positions, and d_sigma, all in float64."""
    weight = torch.randn(out, columns, dtype=torch.float64)
    U, sigma, Vh = torch.linalg.svd(weight, full_matrices=False)
    pattern = pattern_named(name, 1)
    positions = pattern.positions(U, Vh)
    d_sigma = torch.randn(pattern.size(len(sigma)), dtype=torch.float64, requires_grad=True)
    return weight, U, sigma, Vh, pattern, positions, d_sigma


def dense_change(U, Vh, pattern, positions, d_sigma):
    """U M Vh with M made entry by entry."""
    r = U.shape[1]
    rows, columns = (torch.arange(r),) * 2 if positions is None else positions
    return U @ torch.zeros(r, r, dtype=U.dtype).index_put((rows, columns), d_sigma) @ Vh


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ways_give_the_dense_product(name, shape):
    weight, U, sigma, Vh, pattern, positions, d_sigma = case(name, *shape)
    bias, x = torch.randn(shape[0], dtype=torch.float64), torch.randn(2, 3, shape[1], dtype=torch.float64)
    expected = x @ (weight + dense_change(U, Vh, pattern, positions, d_sigma)).T
    torch.testing.assert_close(FactoredProduct.apply(x, d_sigma, sigma, U, Vh, pattern, positions), expected)
    dense = DenseProduct.apply(x, d_sigma, bias, weight, U, Vh, pattern, positions)
    torch.testing.assert_close(dense, expected + bias)
    torch.testing.assert_close(compose(weight, d_sigma, U, Vh, pattern, positions) @ x[0, 0], expected[0, 0])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_finite_differences(name, shape):
    weight, U, sigma, Vh, pattern, positions, d_sigma = case(name, *shape)
    bias = torch.randn(shape[0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, shape[1], dtype=torch.float64, requires_grad=True)
    rest = U, Vh, pattern, positions
    assert torch.autograd.gradcheck(lambda x, d, b: DenseProduct.apply(x, d, b, weight, *rest), (x, d_sigma, bias))
    assert torch.autograd.gradcheck(lambda x, d: FactoredProduct.apply(x, d, sigma, *rest), (x, d_sigma))
    assert torch.autograd.gradcheck(lambda d: ComposedWeight.apply(d, weight, *rest), (d_sigma,))


def test_the_gradient_of_sigma_is_the_diagonal_of_equation_11():
    weight, U, _, Vh, pattern, positions, d_sigma = case("plain", 5, 7)
    G = torch.randn(5, 7, dtype=torch.float64)
    (ComposedWeight.apply(d_sigma, weight, U, Vh, pattern, positions) * G).sum().backward()
    torch.testing.assert_close(d_sigma.grad, torch.diagonal(U.T @ G @ Vh.T))


def test_the_base_and_its_factors_get_no_gradient():
    weight, U, sigma, Vh, pattern, positions, d_sigma = case("banded", 5, 7)
    frozen = [nn.Parameter(tensor) for tensor in (weight, U, sigma, Vh)]
    weight, U, sigma, Vh = frozen
    x = torch.randn(4, 7, dtype=torch.float64)
    y = DenseProduct.apply(x, d_sigma, None, weight, U, Vh, pattern, positions)
    (y + FactoredProduct.apply(x, d_sigma, sigma, U, Vh, pattern, positions)).sum().backward()
    assert [parameter.grad for parameter in frozen] == [None] * 4
    assert d_sigma.grad.abs().sum() > 0


@pytest.mark.parametrize(("weight", "factor"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float32)])
def test_a_composed_weight_has_the_higher_precision(weight, factor):
    W0, U, _, Vh, pattern, positions, d_sigma = case("plain", 5, 7)
    composed = compose(W0.to(weight), d_sigma, U.to(factor), Vh.to(factor), pattern, positions)
    assert composed.dtype == torch.promote_types(weight, factor)


def test_the_factored_way_is_taken_for_few_tokens():
    assert [factored_is_cheaper(tokens, 320, 320) for tokens in (1, 319, 100_000)] == [True, True, False]
    for out, columns in ((320, 320), (1280, 320), (320, 2048)):
        choices = [factored_is_cheaper(tokens, out, columns) for tokens in range(1, 4000, 13)]
        assert choices == sorted(choices, reverse=True)  # once dense, always dense with more tokens
    # A wide pattern costs every token something, so that the dense way is cheaper for fewer tokens.
    assert factored_is_cheaper(500, 320, 320)
    assert not factored_is_cheaper(500, 320, 320, pattern_work=320 * 300)


@pytest.mark.parametrize("product", ["dense", "factored", "split"])
@pytest.mark.parametrize("trained", [True, False])
def test_the_bases_bias_is_added_to_the_trained_one_and_gets_no_gradient(product, trained):
    weight, U, sigma, Vh, pattern, positions, d_sigma = case("plain", 5, 7)
    base_bias, delta = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x, rest, given = torch.randn(3, 7, dtype=torch.float64), (U, Vh, pattern, positions), delta if trained else None

    def y(bias, base_bias):
        if product == "dense":
            return DenseProduct.apply(x, d_sigma, bias, weight, *rest, None, base_bias)
        if product == "factored":
            return FactoredProduct.apply(x, d_sigma, sigma, *rest, bias, base_bias)
        return SplitProduct.apply(x, d_sigma, weight, *rest, bias, base_bias)

    both = y(given, base_bias)
    torch.testing.assert_close(both, y(None, None) + base_bias + (delta if trained else 0))
    both.sum().backward()
    assert base_bias.grad is None
    assert delta.grad is None if not trained else torch.equal(delta.grad, torch.full_like(delta, 3))
