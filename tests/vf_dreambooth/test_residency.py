"""What is on the device while it trains, and in which precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import optimization, residency
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import adapted_models
from vf_dreambooth.residency import (
    drawing_models,
    drawing_on,
    idle_models,
    moved_to,
    put_aside,
    quick_attention,
    store_low,
    unchecked,
)


def test_frozen_convolutions_are_stored_low_and_nothing_else(tiny_base):
    models = adapted_models(load(resolve(str(tiny_base))))
    for model in models.values():
        model.requires_grad_(False)
    trained = models["unet"].conv_out.requires_grad_(True)
    vf.inject({"unet": models["unet"].mid_block})
    store_low(models, "bf16")
    for module in models["unet"].modules():
        low = type(module) is nn.Conv2d and module is not trained
        assert all((p.dtype == torch.bfloat16) == low for p in module.parameters(recurse=False))
    store_low({"text": models["text_encoder"]}, "bf16")
    assert {p.dtype for p in models["text_encoder"].parameters()} == {torch.float32}


def test_storing_them_low_changes_no_bit_of_the_result(arguments, tmp_path, monkeypatch):
    flags = ("--mixed_precision", "bf16", "--num_validation_images", 1)
    main(arguments(tmp_path / "low", *flags))
    monkeypatch.setattr(optimization, "store_low", lambda *_: None)
    main(arguments(tmp_path / "high", *flags))
    for name in ("vectors.safetensors", "samples/step_000004.png"):
        assert (tmp_path / "low" / name).read_bytes() == (tmp_path / "high" / name).read_bytes()


def test_the_vae_and_the_checker_are_idle(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    pipe.safety_checker = nn.Linear(2, 2)
    assert {id(module) for module in idle_models(pipe)} == {id(pipe.vae), id(pipe.safety_checker)}
    checker = pipe.safety_checker
    with unchecked(pipe):
        assert pipe.safety_checker is None
    assert pipe.safety_checker is checker
    assert [id(module) for module in drawing_models(pipe)] == [id(pipe.vae)]


@pytest.mark.gpu
def test_the_idle_models_are_on_the_gpu_only_to_draw(tiny_base):
    gpu = torch.device("cuda")
    pipe = moved_to(load(resolve(str(tiny_base))), gpu)
    assert pipe.vae.use_slicing
    put_aside(pipe)
    assert (pipe.vae.device.type, pipe.unet.device.type) == ("cpu", "cuda")
    with drawing_on(pipe, gpu):
        assert pipe.vae.device.type == "cuda"
    assert pipe.vae.device.type == "cpu"


@pytest.fixture
def in_dtypes(monkeypatch):
    """The dtypes in which attention was computed."""
    found, own = [], residency.torch_attention

    def attention(query, *rest, **options):
        found.append(query.dtype if not torch.is_autocast_enabled("cpu") else torch.get_autocast_dtype("cpu"))
        return own(query, *rest, **options)

    monkeypatch.setattr(residency, "torch_attention", attention)
    return found


@pytest.mark.parametrize(("queries", "keys", "dtype"), [(64, 77, torch.float32), (512, 512, torch.bfloat16)])
def test_a_cpu_under_autocast_computes_small_attention_in_float32(in_dtypes, queries, keys, dtype):
    sizes = (queries, keys, keys)
    exact = [torch.randn(1, 2, size, 8).bfloat16().double().requires_grad_() for size in sizes]
    given = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected, own = F.scaled_dot_product_attention(*exact), F.scaled_dot_product_attention
    with quick_attention(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
        result = F.scaled_dot_product_attention(*given)
    assert F.scaled_dot_product_attention is own
    assert in_dtypes == [dtype]
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), expected, atol=1e-2, rtol=1e-2)
    weights = torch.randn_like(expected)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(given, exact, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, atol=2e-2, rtol=5e-2)


def test_attention_without_autocast_and_on_other_devices_is_torchs_own(in_dtypes):
    query = torch.randn(1, 2, 16, 8)
    with quick_attention(torch.device("cpu")):
        found = F.scaled_dot_product_attention(query, query, query)
    assert torch.equal(found, F.scaled_dot_product_attention(query, query, query))
    own = F.scaled_dot_product_attention
    with quick_attention(torch.device("meta")):
        assert F.scaled_dot_product_attention is own
