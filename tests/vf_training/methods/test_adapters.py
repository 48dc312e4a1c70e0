"""Bottleneck adapters: where they stand, that they begin as the base, and what their file holds."""

import pytest
import torch
from torch import nn

from vectorfit import VectorFitError
from vectorfit.roles import ATTENTION, FEED_FORWARD
from vf_training import methods
from vf_training.methods.adapters import Adapter, Adapters

INPUT = torch.linspace(-1, 1, 40).reshape(5, 8)
BEHIND = {
    "houlsby": {f"layer.{block}.{path}" for block in (0, 1) for path in ("attention.output.dense", "output.dense")},
    "pfeiffer": {f"layer.{block}.output.dense" for block in (0, 1)},
}


def test_an_adapter_is_the_equation():
    adapter, h = Adapter(6, 3), torch.randn(2, 4, 6)
    assert torch.equal(adapter(h), h)  # W_up starts at 0
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    inner = nn.functional.gelu(h @ adapter.down.weight.T + adapter.down.bias)
    torch.testing.assert_close(adapter(h), h + inner @ adapter.up.weight.T + adapter.up.bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_comes_out_has_the_dtype_of_what_went_in(dtype):
    assert Adapter(6, 3)(torch.randn(2, 6, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", BEHIND)
def test_they_stand_behind_the_sublayers_of_every_block_and_begin_as_the_base(old, name):
    trained = methods.put_in(name, old.Model())
    model = trained.models[""]
    adapters = {path for path, module in model.named_modules() if isinstance(module, Adapter)}
    assert adapters == {f"{path}.adapter" for path in BEHIND[name]}
    assert torch.equal(model(INPUT), old.Model()(INPUT))
    model(INPUT).square().sum().backward()
    gradients = {path: parameter.grad for path, parameter in trained.parameters.items()}
    assert all(gradients[f"{path}.adapter.up.weight"].abs().sum() > 0 for path in BEHIND[name])


@pytest.mark.parametrize("name", BEHIND)
def test_the_file_holds_the_adapters_and_their_size(old, name):
    trained = methods.put_in(name, old.Model(), methods.Options(size=3, heads=old.HEAD))
    shapes = {key: tuple(value.shape) for key, value in trained.method.technique.contents(trained).items()}
    parts = {"down.weight": (3, 8), "down.bias": (3,), "up.weight": (8, 3), "up.bias": (8,)}
    assert shapes == {f"{path}.adapter.{part}": shape for path in BEHIND[name] for part, shape in parts.items()}


def test_a_strength_scales_what_they_add(old):
    trained = methods.put_in("pfeiffer", nn.Sequential(old.Model().layer[0]), methods.Options(size=2))
    old.train(trained.parameters)
    contents = trained.method.technique.contents(trained)
    layer = trained.models[""][0].output.dense
    change = layer.adapter(INPUT) - INPUT
    for strength in (0.0, 0.5, 1.0):
        plain = nn.Sequential(old.Model().layer[0])
        take_away = trained.method.technique.apply(plain, contents, strength)
        torch.testing.assert_close(plain[0].output.dense.adapter(INPUT) - INPUT, strength * change)
        assert not any(parameter.requires_grad for parameter in plain[0].output.dense.adapter.parameters())
        take_away()
        assert not hasattr(plain[0].output.dense, "adapter")
        assert torch.equal(plain(INPUT), nn.Sequential(old.Model().layer[0])(INPUT))


def test_without_a_block_there_is_nothing_to_put_them_behind(old):
    with pytest.raises(VectorFitError, match=r"houlsby: no layer named output\.dense, .*to put an adapter behind"):
        methods.put_in("houlsby", nn.Sequential(nn.Linear(4, 4)))


def test_an_adapter_of_another_width_of_layer_is_refused_and_nothing_is_put_in(old):
    trained = methods.put_in("pfeiffer", old.Model())
    contents = trained.method.technique.contents(trained)
    contents["layer.1.output.dense.adapter.up.bias"] = torch.zeros(9)
    model = old.Model()
    with pytest.raises(VectorFitError, match=r"no layer layer\.1\.output\.dense that the adapter fits"):
        Adapters((ATTENTION, FEED_FORWARD)).apply(model, contents, 1.0)
    assert not any(isinstance(module, Adapter) for module in model.modules())
