"""Bases that torchao or bitsandbytes has quantised: called, dequantised, trained on, saved; merged never."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vectorfit as vf
from vectorfit import VectorFitConfig, VectorFitError, export, quantised
from vectorfit.layers import VectorFitQuantised, layer_for
from vectorfit.svd import decompose

SHAPES = ((64, 128), (128, 64), (64, 64))


def int8(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    return model


def int4(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4))
    return model


def bnb(kind):
    def quantise(model):
        library = pytest.importorskip("bitsandbytes")
        for path, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                sizes = module.in_features, module.out_features, module.bias is not None
                new = (
                    library.nn.Linear4bit(*sizes, compute_dtype=torch.float32, quant_type="nf4")
                    if kind == "nf4"
                    else library.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
                )
                new.load_state_dict(module.state_dict())
                model.set_submodule(path, new.requires_grad_(False).to("cpu"))
        return model

    return quantise


QUANTISERS = {"int8": int8, "int4": int4, "nf4": bnb("nf4"), "bnb int8": bnb("int8")}


def plain(shape, *, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(shape[1], shape[0], bias=bias), nn.Tanh(), nn.Linear(shape[0], 32, bias=bias))


def moved(model):
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.copy_(torch.randn_like(vector) * 0.1)
    return model


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("storage", ["float32", "bf16", "square"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_the_dequantised_weight(kind, storage, shape):
    model = QUANTISERS[kind](plain(shape))
    weight = quantised.dequantised(_kept(model[0]))
    vf.inject(model, VectorFitConfig(factors=storage))
    layer = moved(model)[0]
    assert type(layer) is VectorFitQuantised
    assert layer.storage == storage
    reference = nn.Sequential(nn.Linear(shape[1], shape[0])).double()
    reference[0].weight.data, reference[0].bias.data = weight.double(), layer.bias.data.double()
    vf.inject(reference, VectorFitConfig(factors="float32"))
    with torch.no_grad():
        reference[0].d_sigma.copy_(layer.d_sigma)
        reference[0].d_bias.copy_(layer.d_bias)
    x = torch.randn(2, 5, shape[1], requires_grad=True)
    exact = x.detach().double().requires_grad_()
    y, expected = layer(x), reference(exact)
    bound = {"float32": 1e-4, "bf16": 4e-3, "square": 4e-3}[storage]
    assert _error(y, expected) < bound
    y.sum().backward()
    expected.sum().backward()
    assert _error(x.grad, exact.grad) < bound
    assert _error(layer.d_sigma.grad, reference[0].d_sigma.grad) < 2 * bound
    assert _error(layer.d_bias.grad, reference[0].d_bias.grad) < 1e-5
    with torch.no_grad():
        assert _error(layer.eval()(x), expected) < bound


def _kept(module):
    quantised.keep_readable(module)
    return module.weight


def _error(found, expected):
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("kind", QUANTISERS)
def test_zero_deltas_disabling_and_removing_are_the_quantised_base(kind):
    model = QUANTISERS[kind](plain((64, 128)))
    x = torch.randn(4, 128)  # in training mode: in eval, bitsandbytes' 4-bit layers round to bfloat16 on a CPU
    with torch.no_grad():
        before, layers = model(x), list(model)
        vf.inject(model)
        torch.testing.assert_close(model(x), before, atol=1e-6, rtol=1e-6)
        moved(model)
        assert not torch.allclose(model(x), before, atol=1e-3)
        with vf.disabled(model):
            torch.testing.assert_close(model(x), before, atol=1e-6, rtol=1e-6)
        vf.remove(model)
        assert list(model) == layers
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("kind", QUANTISERS)
def test_training_lowers_the_loss_and_leaves_the_base(kind):
    model = QUANTISERS[kind](plain((64, 128)))
    weight = quantised.dequantised(_kept(model[0])).clone()
    vf.inject(model)
    optimizer = torch.optim.AdamW(vf.vector_parameters(model).values(), lr=3e-2)
    x, target = torch.randn(16, 128), torch.randn(16, 32)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(model(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(quantised.dequantised(model[0].weight), weight)


@pytest.mark.parametrize("kind", QUANTISERS)
def test_merging_is_refused_with_what_can_be_done_and_exports_work(kind):
    model = QUANTISERS[kind](plain((64, 128)))
    weight = quantised.dequantised(_kept(model[0]))
    vf.inject(model)
    moved(model)
    for refused in (vf.merge, export.bake, lambda model: vf.serve(model, "cpu", torch.float32)):
        with pytest.raises(
            VectorFitError, match=r"0: its weight is quantised.*\(2 such layers\).*vectorfit.export.lora"
        ):
            refused(model)
    difference = export.difference(model).tensors["0.diff"]
    U, _, Vh = decompose(weight)
    torch.testing.assert_close(difference, ((U * model[0].d_sigma) @ Vh).detach(), atol=1e-5, rtol=1e-4)
    assert export.lora(model, 64).kept == pytest.approx(1.0)


@pytest.mark.parametrize("kind", QUANTISERS)
def test_the_effective_weight_is_a_float_one_where_it_is_changed(kind):
    model = QUANTISERS[kind](plain((64, 128)))
    vf.inject(model)
    layer = moved(model)[0]
    assert layer.effective(None, None)[0] is layer.weight
    weight, bias = layer.effective(layer.d_sigma.detach(), layer.d_bias.detach())
    x = torch.randn(3, 128)
    with torch.no_grad():
        torch.testing.assert_close(layer.transform(x, weight, bias), layer(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("storage", ["float32", "square"])
def test_a_file_belongs_to_the_dequantised_weights(kind, storage, tmp_path):
    """The factors come from the dequantised weight: the file fits any base of those values, quantised or not."""
    model = QUANTISERS[kind](plain((64, 128)))
    vf.inject(model, VectorFitConfig(factors=storage))
    bound = 1e-4 if storage == "float32" else 2e-3  # the others keep their factors in float32
    moved(model)
    path = tmp_path / "a.safetensors"
    vf.save_vectors(model, path, base_model="b")
    again = QUANTISERS[kind](plain((64, 128)))
    vf.load_vectors(again, path)
    x = torch.randn(3, 128)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), model.eval()(x), atol=bound, rtol=bound)
    same_values = plain((64, 128))
    for index in (0, 2):
        same_values[index].weight.data = quantised.dequantised(model[index].weight).float()
    vf.load_vectors(same_values, path)
    with torch.no_grad():
        torch.testing.assert_close(same_values.eval()(x), model(x), atol=bound, rtol=bound)
    with pytest.raises(VectorFitError, match="base weights"):
        vf.load_vectors(plain((64, 128)), path)  # the weights before they were quantised are others


def test_a_layer_that_cannot_be_called_is_refused_with_what_can():
    raw = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    raw["fc"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        VectorFitError, match=r"fc: its weight is quantised \(torch.int8\).*use torchao or bitsandbytes"
    ):
        vf.plan(raw)
    assert layer_for(raw["fc"]) is None


def test_a_layer_of_bitsandbytes_is_first_quantised():
    library = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(library.nn.Linear4bit(64, 32))
    with pytest.raises(
        VectorFitError, match="0: a Linear4bit of bitsandbytes that is not quantised yet; move the model"
    ):
        vf.plan(model)


def test_a_weight_without_its_scales_is_never_read():
    weight = _kept(bnb("nf4")(plain((64, 128)))[0])
    with pytest.raises(TypeError, match="got a Tensor, expected a quantised weight itself"):
        quantised.dequantised(weight.detach())


def test_packed_weights_are_counted_as_weights():
    model = bnb("nf4")(plain((64, 128), bias=False))
    assert vf.plan(model).num_total == 64 * 128 + 64 * 32


def test_peft_is_told_to_use_inject():
    peft = pytest.importorskip("peft")
    from vectorfit.peft import VectorFitConfig as PeftConfig

    with pytest.raises(
        VectorFitError, match=r"quantised, which this method does not take through PEFT; use vectorfit.inj"
    ):
        peft.get_peft_model(int8(plain((64, 128))), PeftConfig(target_modules=["0"]))


def test_plain_layers_are_not_quantised():
    assert not quantised.is_quantised(nn.Linear(2, 2))
    assert not quantised.is_quantised(nn.Embedding(2, 2))
