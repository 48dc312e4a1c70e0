"""Layers whose batches have vectors of their own for each row."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit import rows
from vectorfit.record import injection_of
from vectorfit.rows import BASE, LayerRows, Rows, factored_rows_are_cheaper, seated


def adapted(layer: nn.Module, **config) -> tuple[nn.Sequential, object]:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Identity())
    vf.inject(model, vf.VectorFitConfig(target_modules=("0",), **config))
    return model, injection_of(model).layers["0"]


LAYERS = {
    "wide": (lambda: nn.Linear(6, 20), (5, 6)),
    "tall": (lambda: nn.Linear(20, 6), (5, 20)),
    "no bias": (lambda: nn.Linear(8, 8, bias=False), (5, 8)),
    "convolution": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 4, 4)),
    "single tokens": (lambda: nn.Linear(8, 8), (8,)),
}


def own_vectors(layer, num_sets: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {kind: torch.randn(num_sets, len(v), generator=generator) for kind, v in layer.vectors.items()}


def alone(model, layer, x, vectors: dict[str, torch.Tensor], number: int) -> torch.Tensor:
    with torch.no_grad():
        for kind, vector in layer.vectors.items():
            vector.copy_(vectors[kind][number] if number != BASE else torch.zeros_like(vector))
        return model(x)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (2, 0, 2, BASE), (1, 1)], ids=str)
def test_each_row_is_computed_as_its_set_alone(kind, keeps, numbers):
    make, shape = LAYERS[kind]
    model, layer = adapted(make())
    vectors = own_vectors(layer, 3)
    twice = torch.randn(2 * len(numbers), *shape)
    of_rows = LayerRows(Rows(numbers, 3, keeps_weights=keeps), vectors.get("sigma"), vectors.get("bias"))
    with torch.no_grad(), seated({layer: of_rows}):
        results = [model(twice) for _ in range(rows.CALLS_BEFORE_KEEPING + 2)]
    for row, number in enumerate((*numbers, *numbers)):
        expected = alone(model, layer, twice[row : row + 1], vectors, number)
        for result in results:
            torch.testing.assert_close(result[row : row + 1], expected, atol=2e-5, rtol=1e-5)


def test_both_ways_are_taken_and_agree(monkeypatch):
    model, layer = adapted(nn.Linear(8, 32))
    vectors, x = own_vectors(layer, 2), torch.randn(2, 3, 8)
    results = {}
    for cheaper in (True, False):
        monkeypatch.setattr(rows, "factored_rows_are_cheaper", lambda *_, cheaper=cheaper: cheaper)
        with torch.no_grad(), seated({layer: LayerRows(Rows((0, 1), 2), vectors["sigma"], vectors["bias"])}):
            results[cheaper] = model(x)
    torch.testing.assert_close(results[True], results[False], atol=1e-5, rtol=1e-5)
    assert not torch.equal(results[True], results[False])  # two ways round differently, so both were taken


def test_the_cheaper_way_by_arithmetic():
    assert factored_rows_are_cheaper(tokens=8, sets=8, out=320, columns=320)  # a weight for each token does not pay
    assert not factored_rows_are_cheaper(tokens=8 * 4096, sets=8, out=320, columns=320)
    assert factored_rows_are_cheaper(tokens=8 * 300, sets=8, out=2560, columns=320)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0, BASE, 1)], ids=str)
def test_gradients_reach_their_own_set_alone(numbers):
    model, layer = adapted(nn.Linear(6, 10))
    model.train()
    vectors = {kind: v.requires_grad_() for kind, v in own_vectors(layer, 2).items()}
    x, weight = torch.randn(len(numbers), 4, 6), torch.randn(len(numbers), 4, 10)
    with seated({layer: LayerRows(Rows(numbers, 2), vectors["sigma"], vectors["bias"])}):
        (model(x) * weight).sum().backward()
    for number in (0, 1):
        own = [row for row, n in enumerate(numbers) if n == number]
        for kind, vector in layer.vectors.items():
            vector.data.copy_(vectors[kind][number])
            vector.grad = None
        (model(x[own]) * weight[own]).sum().backward()
        for kind, vector in layer.vectors.items():
            torch.testing.assert_close(vectors[kind].grad[number], vector.grad, atol=1e-5, rtol=1e-5)


def test_low_precision_adds_the_change_beside_the_weight():
    model, layer = adapted(nn.Linear(16, 16))
    vectors = {kind: 1e-3 * v for kind, v in own_vectors(layer, 2).items()}
    x = torch.randn(2, 3, 16)
    expected = torch.cat([alone(model, layer, x[i : i + 1], vectors, i) for i in (0, 1)])
    base = alone(model, layer, x, vectors, BASE)
    with torch.no_grad(), seated({layer: LayerRows(Rows((0, 1), 2), vectors["sigma"], vectors["bias"])}):
        low = model(x.bfloat16())
    assert low.dtype == torch.bfloat16
    error = (low.float() - expected).norm() / base.norm()
    assert error < 8e-3  # two roundings to bfloat16


def test_a_batch_of_another_size_is_told():
    model, layer = adapted(nn.Linear(6, 6))
    of_rows = LayerRows(Rows((0, 1), 2), None, torch.zeros(2, 6))
    with seated({layer: of_rows}), pytest.raises(vf.VectorFitError, match=r"a batch of 3 samples, expected 2 \(or 4"):
        model(torch.randn(3, 6))


def test_the_rows_are_left_with_the_context():
    _, layer = adapted(nn.Linear(6, 6))
    with pytest.raises(RuntimeError), seated({layer: LayerRows(Rows((0,), 1), None, torch.ones(1, 6))}):
        raise RuntimeError
    assert layer.rows is None
