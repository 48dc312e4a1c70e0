"""What of a pipeline is on the device while it trains, and in which precision."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from vf_training.device import free_memory

from .families import family_of

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
FEW_SCORES = 2**17  # of a head; with more, a CPU's bfloat16 is the faster one (benchmarks/step_speed.md)
torch_attention = F.scaled_dot_product_attention


def idle_models(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The models that only drawing and encoding pictures need: the VAE and the safety checker."""
    adapted = {id(model) for model in family_of(pipe).adapted_models(pipe).values()}
    modules = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    return [module for module in modules if id(module) not in adapted]


def drawing_models(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The idle models that drawing for a training needs: not the safety checker, see `unchecked`."""
    return [module for module in idle_models(pipe) if module is not getattr(pipe, "safety_checker", None)]


@contextmanager
def unchecked(pipe: DiffusionPipeline) -> Iterator[None]:
    """Within the context no safety checker runs.

    From blanked class images a model would learn a black class, and a blanked sample grid would show no progress.
    """
    checker = getattr(pipe, "safety_checker", None)
    if checker is None:
        yield
        return
    pipe.safety_checker = None
    try:
        yield
    finally:
        pipe.safety_checker = checker


def moved_to(pipe: DiffusionPipeline, device: torch.device) -> DiffusionPipeline:
    """The pipeline on the device, but for the safety checker, which a training never uses.

    On an accelerator the VAE decodes one picture at a time, which takes an eighth of the memory.
    """
    if device.type != "cpu":
        pipe.vae.enable_slicing()
    with unchecked(pipe):
        return pipe.to(device)


def put_aside(pipe: DiffusionPipeline) -> None:
    """Moves the idle models to main memory."""
    for module in idle_models(pipe):
        module.to("cpu")
    free_memory()


@contextmanager
def drawing_on(pipe: DiffusionPipeline, device: torch.device) -> Iterator[None]:
    """Within the context all that draws is on the device. Afterwards the idle models are put aside again."""
    try:
        for module in drawing_models(pipe):
            module.to(device)
        yield
    finally:
        if device.type != "cpu":
            put_aside(pipe)


def store_low(models: Mapping[str, nn.Module], mixed_precision: str | None) -> None:
    """Stores frozen convolutions in the precision that autocast gives them at every step anyway. No result changes."""
    dtype = LOW_PRECISION.get(mixed_precision or "no")
    if dtype is None:
        return
    for model in models.values():
        for module in model.modules():
            if type(module) is nn.Conv2d and not any(p.requires_grad for p in module.parameters()):
                module.to(dtype)


def checkpointing(models: Mapping[str, nn.Module], *, on: bool) -> None:
    """Turns gradient checkpointing on or off; diffusers and transformers call it by different names."""
    names = (
        ("enable_gradient_checkpointing", "activation_checkpointing_enable")
        if on
        else ("disable_gradient_checkpointing", "activation_checkpointing_disable")
    )
    for model in models.values():
        next(getattr(model, name) for name in names if hasattr(model, name))()


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Torch's attention, in float32 where there are few scores."""
    if not torch.is_autocast_enabled("cpu") or query.shape[-2] * key.shape[-2] > FEW_SCORES:
        return torch_attention(query, key, value, *args, **kwargs)
    with torch.autocast("cpu", enabled=False):
        result = torch_attention(query.float(), key.float(), value.float(), *args, **kwargs)
    return result.to(query.dtype)


@contextmanager
def quick_attention(device: torch.device) -> Iterator[None]:
    """Within the context a CPU under autocast computes small attention in float32: its bfloat16 gradient is slow.

    Around the backward pass too, where checkpointing computes attention again.
    """
    if device.type != "cpu":
        yield
        return
    with patch.object(F, "scaled_dot_product_attention", _attention):
        yield
