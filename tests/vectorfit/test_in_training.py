"""The layers inside what trainings bring along: checkpointing, compilation, autocast, fused optimizers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import vectorfit as vf

ROOT = Path(__file__).parents[2]


class Net(nn.Module):
    def __init__(self, how=None):
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6))

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return checkpoint(self.body, x, use_reentrant=self.how == "reentrant") if self.how else self.body(x)


def injected(how=None) -> Net:
    torch.manual_seed(0)
    net = Net(how).train()
    vf.inject(net, vf.VectorFitConfig(target_modules=("conv", "body.0", "body.2")))
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.normal_(std=0.1)
    return net


def gradients(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net(x).square().sum().backward()
    return {name: vector.grad.clone() for name, vector in vf.vector_parameters(net).items()}


@pytest.mark.parametrize("how", ["reentrant", "not reentrant"])
def test_checkpointing_in_both_modes_gives_the_same_gradients(how):
    x = torch.randn(2, 3, 5, 5)
    plain = gradients(injected(), x)
    for name, gradient in gradients(injected(how), x).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [3, 12], ids=["few tokens", "many tokens"])
def test_compiled_it_is_the_same(size):
    x, net = torch.randn(2, 3, size, size), injected()
    plain = gradients(net, x)
    net.zero_grad()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    compiled(x).square().sum().backward()
    for name, vector in vf.vector_parameters(net).items():
        torch.testing.assert_close(vector.grad, plain[name], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), net.eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_gradients_are_float32_and_near(dtype):
    x = torch.randn(2, 3, 5, 5)
    plain, net = gradients(injected(), x), injected()
    with torch.autocast("cpu", dtype):
        loss = net(x).float().square().sum()
    loss.backward()
    for name, vector in vf.vector_parameters(net).items():
        assert vector.grad.dtype == torch.float32
        scale = plain[name].abs().max()
        assert (vector.grad - plain[name]).abs().max() < 0.05 * scale


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_weights_are_fresh_after_every_kind_of_update(options):
    net, x = injected(), torch.randn(2, 3, 5, 5)
    optimizer = torch.optim.AdamW(vf.vector_parameters(net).values(), lr=0.1, **options)
    before = net(x)
    before.square().sum().backward()
    optimizer.step()
    after = net(x)
    assert not torch.allclose(after, before)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), after, atol=1e-4, rtol=1e-4)


def test_merging_what_is_not_finite_is_refused_and_changes_nothing():
    net = injected().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        net.body[2].d_sigma[0] = float("nan")
    with pytest.raises(vf.VectorFitError, match=r"body\.2\.sigma holds NaN"):
        vf.merge(net)
    assert not any(getattr(module, "merged", False) for module in net.modules())
    same = [torch.equal(value, before[name]) for name, value in net.state_dict().items() if "d_sigma" not in name]
    assert all(same)


def test_requires_grad_is_as_it_should_be_after_every_step(tmp_path):
    net = injected()

    def trainable():
        return {name for name, parameter in net.named_parameters() if parameter.requires_grad}

    vectors = trainable()
    assert len(vectors) == 6
    vf.save_vectors(net, tmp_path / "v", base_model="n")
    for change in (
        lambda: vf.merge(net),
        lambda: vf.unmerge(net),
        lambda: vf.set_strength(net, 0.5),
        lambda: vf.load_vectors(net, tmp_path / "v"),
        lambda: vf.set_subjects(net, []),
        lambda: vf.disabled(net).__enter__(),
    ):
        change()
        assert trainable() == vectors
    vf.remove(net)
    assert trainable() == {name for name, _ in net.named_parameters()}


def test_a_file_loads_in_a_fresh_process_under_another_seed(tmp_path):
    net, x = injected().eval(), torch.randn(2, 3, 5, 5)
    vf.save_vectors(net, tmp_path / "v.safetensors", base_model="n")
    expected = net(x).detach()
    vf.remove(net)
    torch.save({"state": net.state_dict(), "x": x, "y": expected}, tmp_path / "base.pt")
    code = f"""
import sys, torch, vectorfit as vf
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_in_training import Net
torch.manual_seed(123)
kept = torch.load({str(tmp_path / "base.pt")!r})
net = Net().eval()
net.load_state_dict(kept["state"])
vf.load_vectors(net, {str(tmp_path / "v.safetensors")!r})
assert torch.equal(net(kept["x"]), kept["y"]), (net(kept["x"]) - kept["y"]).abs().max()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@settings(deadline=None, max_examples=60)
@given(SHAPES, DTYPES, st.booleans(), st.integers(0, 2**31))
def test_any_shape_and_dtype_starts_as_the_base_and_comes_back_to_it(shape, dtype, bias, seed):
    rows, columns, tokens = shape
    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(columns, rows, bias=bias)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(generator=generator)
    model = nn.Sequential(base.to(dtype)).eval()
    x = torch.randn(tokens, columns, generator=generator).to(dtype)
    expected, weight = model(x), base.weight.clone()
    vf.inject(model)
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_(generator=generator)
    unmerged = model(x)
    vf.merge(model)
    if dtype == torch.float32:
        assert torch.equal(model(x), unmerged)
    else:  # unmerged, the change is applied beside the weight, and the weight is not rounded again
        sizes = x.float().norm(dim=-1).max() * (weight.float().norm() + model[0].d_sigma.norm()) + 4
        assert (model(x) - unmerged).abs().max() <= 8 * torch.finfo(dtype).eps * sizes
    vf.remove(model)
    assert torch.equal(model(x), expected)
    assert torch.equal(base.weight, weight)


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(0, 2**31))
def test_any_shapes_gradients_are_those_of_the_dense_reference(shape, seed):
    rows, columns, tokens = shape
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(columns, rows)).train()
    vf.inject(model)
    layer = model[0]
    with torch.no_grad():
        layer.d_sigma.normal_()
    x, weights = torch.randn(tokens, columns, requires_grad=True), torch.randn(tokens, rows)
    (layer(x) * weights).sum().backward()
    U, Vh, delta = layer.U.double(), layer.Vh.double(), layer.d_sigma.detach().double().requires_grad_()
    inputs = x.detach().double().requires_grad_()
    y = inputs @ (layer.weight.detach().double() + (U * delta) @ Vh).T
    (y * weights.double()).sum().backward()
    # The arithmetic needs no more: products of `tokens` float32 terms.
    tolerance = 1e-5 * (tokens + rows + columns)
    torch.testing.assert_close(layer.d_sigma.grad.double(), delta.grad, atol=tolerance, rtol=1e-4)
    torch.testing.assert_close(x.grad.double(), inputs.grad, atol=tolerance, rtol=1e-4)
