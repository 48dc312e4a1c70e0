"""Models served in half precision: merged, light, and composed from float32 whenever the subject changes."""

import pytest
import torch
from torch import nn

import vectorfit as vf


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False), nn.LayerNorm(8)).eval()


def give(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.copy_(0.1 * torch.randn(vector.shape, generator=generator))


def expected(seed: int | None, dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    """The output of plain layers that hold the composed weights, rounded once."""
    plain = net()
    if seed is not None:
        vf.inject(plain)
        give(plain, seed)
        weights = {name: layer.composed() for name, layer in plain.named_children() if hasattr(layer, "composed")}
        vf.remove(plain)
        for name, (weight, bias) in weights.items():
            plain[int(name)].weight.data = weight
            if bias is not None:
                plain[int(name)].bias.data = bias
    return plain.to(dtype)(x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_served_model_is_the_composed_one_rounded_once(dtype):
    model, x = net(), torch.randn(3, 8)
    vf.inject(model)
    give(model, 1)
    vf.serve(model, "cpu", dtype)
    with torch.no_grad():
        assert torch.equal(model(x.to(dtype)), expected(1, dtype, x))
        give(model, 2)
        vf.merge(model)
        assert torch.equal(model(x.to(dtype)), expected(2, dtype, x))
        with vf.disabled(model):
            with vf.disabled(model):
                assert torch.equal(model(x.to(dtype)), expected(None, dtype, x))
            assert torch.equal(model(x.to(dtype)), expected(None, dtype, x))
        assert torch.equal(model(x.to(dtype)), expected(2, dtype, x))
        vf.set_strength(model, 0.0)
        assert torch.equal(model(x.to(dtype)), expected(None, dtype, x))


def test_only_the_weights_move_and_change_dtype():
    model = net()
    vf.inject(model)
    vf.serve(model, "cpu", torch.bfloat16)
    layer = model[0]
    assert {layer.weight.dtype, layer.bias.dtype, model[3].weight.dtype} == {torch.bfloat16}
    kept = (layer.U, layer.sigma, layer.Vh, *layer.vectors.values(), *layer.pristine)
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert {name for name, _ in model.to(torch.float16).state_dict().items() if "weight" in name}
    assert layer.weight.dtype == torch.float16
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def test_unmerging_and_removing_give_the_bases_own_bits_back():
    base = {name: value.clone() for name, value in net().state_dict().items()}
    for end in (vf.unmerge, vf.remove):
        model = net()
        vf.inject(model)
        give(model, 1)
        vf.serve(model, "cpu", torch.bfloat16)
        end(model)
        for name in ("0.weight", "0.bias", "2.weight"):
            assert torch.equal(model.state_dict()[name], base[name])
        if end is vf.unmerge:
            model.float().train()(torch.randn(2, 8)).sum().backward()
            assert model[0].d_sigma.grad is not None


def test_what_is_not_finite_is_not_served():
    model = net()
    vf.inject(model)
    model[0].d_sigma.data[0] = float("nan")
    with pytest.raises(vf.VectorFitError, match=r"0\.sigma holds NaN"):
        vf.serve(model, "cpu", torch.bfloat16)
    assert model[0].weight.dtype == torch.float32


def test_merged_ends_as_it_began():
    model, x = net(), torch.randn(2, 8)
    vf.inject(model)
    give(model, 1)
    with torch.no_grad():
        adapted = model(x)
        with vf.merged(model), vf.merged(model):
            assert model[0].merged
            assert torch.equal(model(x), adapted)
        assert not model[0].merged
        vf.merge(model)
        with vf.merged(model):
            pass
        assert model[0].merged


@pytest.mark.gpu
def test_the_gpu_holds_what_the_plain_model_takes():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)).eval()
    vf.inject(model)
    give(model, 1)
    vf.serve(model, "cuda", torch.float16)
    assert torch.cuda.memory_allocated() - before <= 1.05 * sum(2 * p.numel() for p in (model[0].weight,) * 2) + 2**16
    assert {layer.U.device.type for layer in model} == {"cpu"}
