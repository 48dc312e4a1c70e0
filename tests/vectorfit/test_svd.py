import re
from pathlib import Path

import pytest
import torch

from vectorfit import VectorFitError
from vectorfit.svd import decompose, in_float64


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (1, 7), (7, 1), (64, 48)])
def test_factors_rebuild_the_weight_and_are_orthonormal(shape):
    weight = torch.randn(shape)
    U, sigma, Vh = decompose(weight)
    r = min(shape)
    assert U.shape == (shape[0], r)
    assert Vh.shape == (r, shape[1])
    assert (sigma.diff() <= 0).all()
    torch.testing.assert_close(U * sigma @ Vh, weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(U.T @ U, torch.eye(r), atol=1e-5, rtol=0)
    torch.testing.assert_close(Vh @ Vh.T, torch.eye(r), atol=1e-5, rtol=0)


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 0.0])
def test_steep_spectra_keep_orthonormal_factors(smallest):
    # The Gram matrix squares the spectrum: below 1e-8 of the largest value it would return noise.
    left, right = torch.linalg.qr(torch.randn(20, 20))[0], torch.linalg.qr(torch.randn(30, 20))[0]
    spectrum = torch.linspace(1, 0, 20) ** 2 + smallest
    weight = left * spectrum @ right.T
    U, sigma, Vh = decompose(weight)
    torch.testing.assert_close(Vh @ Vh.T, torch.eye(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(U * sigma @ Vh, weight, atol=1e-6, rtol=1e-5)


def test_agrees_with_a_float64_svd_for_any_delta():
    weight, delta = torch.randn(96, 64), torch.rand(64)
    U, _, Vh = decompose(weight)
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
    expected = left * delta.double() @ right
    error = torch.linalg.norm((U * delta @ Vh).double() - expected) / torch.linalg.norm(expected)
    assert error < 1e-5


def test_equal_weights_give_equal_factors():
    weight = torch.randn(16, 24)
    for first, second in zip(decompose(weight), decompose(weight.clone()), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), "NaN or infinite"),
        (torch.empty(2, 3, device="meta"), "meta device"),
        (torch.ones(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.ones(0, 3), "non-empty"),
    ],
)
def test_what_cannot_be_factorised_is_refused(weight, message):
    with pytest.raises(VectorFitError, match=message):
        decompose(weight)


def test_float64_is_taken_on_the_cpu_where_the_device_has_none(monkeypatch):
    """MPS: a stand-in for its tensors says where it is, and that it was moved."""

    class OnMps:
        device = torch.device("mps")

        def cpu(self):
            return torch.ones(2)

        def double(self):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    assert torch.equal(in_float64(OnMps()), torch.ones(2, dtype=torch.float64))
    assert in_float64(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float64


def test_nothing_else_makes_float64_of_what_may_be_on_a_device():
    root = Path(__file__).parents[2]
    sources = [
        path for folder in ("vectorfit", "vf_training", "vf_dreambooth") for path in (root / folder).rglob("*.py")
    ]
    found = {path.name for path in sources if re.search(r"\.double\(\)|torch\.(float64|double)", path.read_text())}
    assert found == {"svd.py"}
