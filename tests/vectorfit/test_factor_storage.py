"""How factors are kept: each storage against float64, in products, gradients, merging and files."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit import VectorFitConfig, VectorFitError, export, factor_storage
from vectorfit.factor_storage import factor_bytes, recovered, split, storage_for, tail_start
from vectorfit.layers import VectorFitLinear
from vectorfit.pattern import DIAGONAL
from vectorfit.svd import decompose

SHAPES = ((48, 80), (80, 48), (64, 64))
# Relative errors of what a layer adds to its base's output, and of the gradients: of one storage against float64.
BOUNDS = {"float32": 2e-6, "bf16": 6e-3, "square": 4e-5}


def layer_of(shape, storage, *, bias=True, dtype=torch.float32):
    out, columns = shape
    torch.manual_seed(1)
    base = nn.Linear(columns, out, bias=bias).to(dtype)
    layer = VectorFitLinear(base, ("sigma", "bias") if bias else ("sigma",), DIAGONAL, storage)
    with torch.no_grad():
        for vector in layer.vectors.values():
            vector.copy_(torch.randn_like(vector) * 0.1)
    return layer


def reference(layer, x, grad):
    """Output, its change and the gradients of x, d_sigma in float64, by the dense matrix."""
    weight = layer.weight.detach().double()
    U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
    own = decompose(layer.weight.detach())  # signs and order of the layer's own
    U, Vh = (factor.double() for factor in (own[0], own[2]))
    x = x.detach().double().requires_grad_()
    d = layer.d_sigma.detach().double().requires_grad_()
    change = x @ ((U * d) @ Vh).T
    y = x @ weight.T + change
    if layer.bias is not None:
        y = y + layer.bias.detach().double() + layer.d_bias.detach().double()
    (y * grad.double()).sum().backward()
    return y.detach(), change.detach(), x.grad, d.grad


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("storage", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_change_and_gradients_are_those_of_float64(shape, storage, training):
    layer = layer_of(shape, storage).train(training)
    x = torch.randn(2, 7, shape[1], requires_grad=True)
    grad = torch.randn(2, 7, shape[0])
    _, change, dx, d_sigma = reference(layer, x, grad)
    found = layer(x)
    (found * grad).sum().backward()
    plain = nn.functional.linear(x.double(), layer.weight.double(), (layer.bias + layer.d_bias).double())
    bound = BOUNDS[storage]
    assert error(found.detach().double() - plain.detach(), change) < bound
    assert error(layer.d_sigma.grad, d_sigma) < bound
    assert error(x.grad, dx) < bound
    assert error(layer.d_bias.grad, grad.double().sum((0, 1))) < 1e-6
    with torch.no_grad():
        assert error(layer(x).double() - plain, change) < bound


@pytest.mark.parametrize("storage", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_merging_writes_what_the_layer_computes_and_is_undone(shape, storage):
    layer = layer_of(shape, storage).eval()
    before = layer.weight.detach().clone()
    U, _, Vh = decompose(before)
    layer.merge()
    change = ((U.double() * layer.d_sigma.double()) @ Vh.double()).detach()
    assert error(layer.weight.detach().double() - before.double(), change) < BOUNDS[storage]
    layer.unmerge()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("storage", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zero_deltas_are_the_base_bit_for_bit(shape, storage, dtype):
    layer = layer_of(shape, storage, dtype=dtype).eval()
    with torch.no_grad():
        for vector in layer.vectors.values():
            vector.zero_()
        x = torch.randn(3, shape[1], dtype=dtype)
        assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_bfloat16_the_square_factor_errs_at_most_twice_as_much_as_a_plain_layer(shape):
    layer = layer_of(shape, "square", dtype=torch.bfloat16)
    assert layer.storage == "square"
    x = torch.randn(64, shape[1], dtype=torch.bfloat16)
    y, *_ = reference(layer, x, torch.ones(64, shape[0]))
    plain = nn.Linear(shape[1], shape[0]).to(torch.bfloat16)
    plain.weight.data = layer.weight.data
    rounding = error(nn.functional.linear(x, layer.weight), x.double() @ layer.weight.double().T)
    assert error(layer(x).detach(), y) < 2 * rounding


@pytest.mark.parametrize("storage", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_bfloat16_a_faint_change_arrives(shape, storage):
    """Added to outputs that are rounded already, 6 % of it would."""
    layer = layer_of(shape, storage, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.d_sigma.mul_(1e-3)
    x = torch.randn(4096, shape[1], dtype=torch.bfloat16)
    y, change, *_ = reference(layer, x, torch.ones(4096, shape[0]))
    added = layer(x).detach().double() - (y - change)
    assert float((added * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_other_factor_is_recovered_and_the_tail_keeps_weak_directions(shape):
    weight = torch.randn(shape)
    U, sigma, Vh = decompose(weight)
    sigma[-5:] = 1e-6 * sigma[0]  # could not be divided by
    weight = (U * sigma) @ Vh
    assert tail_start(sigma, torch.float32) == min(shape) - 5
    square = split(U, sigma, Vh, torch.float32)
    wide = shape[0] <= shape[1]
    assert (square[0] is None, square[1] is None) == (not wide, wide)
    found = recovered(weight, square[0] if wide else square[1], sigma, square[2], wide=wide)
    torch.testing.assert_close(found, Vh if wide else U, atol=1e-4, rtol=1e-3)


def test_a_weight_of_zeros_is_all_tail():
    assert tail_start(torch.zeros(4), torch.float32) == 0
    layer = VectorFitLinear(nn.Linear(6, 4), ("sigma",), DIAGONAL, "square")
    layer.weight.data.zero_()
    layer.factorise(("sigma",), DIAGONAL, "square")
    with torch.no_grad():
        layer.d_sigma.fill_(1.0)
    assert torch.isfinite(layer(torch.randn(2, 6))).all()


def test_the_storage_is_chosen_by_size_and_told():
    assert storage_for("auto", (factor_storage.SQUARE_FROM, 10**4)) == "square"
    assert storage_for("auto", (factor_storage.SQUARE_FROM - 1, 10**4)) == "float32"
    assert storage_for("square", (4, 9), is_linear=False) == "float32"
    with torch.device("meta"):
        model = nn.ModuleDict({"big": nn.Linear(4096, 2048), "small": nn.Linear(64, 32)})
    planned = vf.plan(model)
    assert [layer.factors for layer in planned.layers] == ["square", "float32"]
    assert planned.factor_bytes == 4 * 2048**2 + 4 * 32 * (32 + 64)
    assert "factors: float32 in 1 layers, square in 1 layers" in planned.summary()
    assert str(planned).splitlines()[1].endswith("square")
    assert "factors" not in str(vf.plan(nn.Sequential(nn.Linear(4, 4))))
    assert vf.plan(model.bfloat16()).factor_bytes == 2 * 2048**2 + 4 * 32 * (32 + 64)


def test_the_planned_bytes_are_those_of_the_layers():
    for storage in BOUNDS:
        model = nn.Sequential(nn.Linear(80, 48))
        planned = vf.inject(model, VectorFitConfig(factors=storage))
        held = sum(model[0]._buffers[name].nbytes for name in ("U", "Vh") if model[0]._buffers.get(name) is not None)
        assert planned.factor_bytes == held == factor_bytes(storage, (48, 80))


@pytest.mark.parametrize("storage", ["bf16", "square"])
def test_files_and_exports_are_those_of_float32(storage, tmp_path):
    def injected(storage):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 32))
        vf.inject(model, VectorFitConfig(factors=storage))
        return model

    model = injected("float32")
    for vector in vf.vector_parameters(model).values():
        vector.data = torch.randn(vector.shape, generator=torch.Generator().manual_seed(len(vector))) * 0.1
    vf.save_vectors(model, tmp_path / "a.safetensors", base_model="b")
    other = injected(storage)
    vf.load_vectors(other, tmp_path / "a.safetensors")
    assert other[0].storage == storage
    x = torch.randn(5, 40)
    torch.testing.assert_close(other.eval()(x), model.eval()(x), atol=2e-3, rtol=2e-3)
    for found, expected in (
        (export.lora(other, 4), export.lora(model, 4)),
        (export.difference(other), export.difference(model)),
    ):
        assert found.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            assert error(found.tensors[name], tensor.double()) < BOUNDS[storage] * 2, name


@pytest.mark.parametrize("storage", BOUNDS)
def test_halving_a_model_leaves_the_factors_as_they_are(storage):
    layer = layer_of((48, 80), storage)
    before = {name: value.clone() for name, value in layer._buffers.items() if value is not None}
    model = nn.Sequential(layer).half()
    assert model[0].weight.dtype == torch.float16
    assert all(torch.equal(before[name], model[0]._buffers[name]) for name in before)


def test_an_unknown_storage_is_refused():
    with pytest.raises(VectorFitError, match="factors: got 'int8', expected one of auto, float32, bf16, square"):
        VectorFitConfig(factors="int8")
