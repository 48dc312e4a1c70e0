"""How much memory a training takes on its device: arithmetic on shapes alone. No number of the model is computed.

The training runs on tensors without contents (torch's FakeTensor), and every tensor that it makes is counted while it
lives. What a device's own libraries take is not counted: on CUDA about half a GiB, and what the allocator rounds up.
"""

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .families import Denoiser, family_of
from .residency import LOW_PRECISION, checkpointing, drawing_models

FLOAT32 = ("group_norm", "layer_norm", "softmax")  # that CUDA's autocast computes in float32, and a CPU's does not
OPTIMIZER = 8  # bytes that AdamW keeps of each trained number


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of an update, and of drawing a sample grid."""

    training: int
    drawing: int

    @property
    def peak(self) -> int:
        return max(self.training, self.drawing)


class _Attention(torch.autograd.Function):
    """What fused attention keeps: its inputs, its output, and a number for every row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """Stands for torch's attention, which without contents would be the one that keeps every score."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    result: Tensor = _Attention.apply(query, key, value)
    return result


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that autocast computes in float32 on a GPU, done so here."""

    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return function(*tree_map_only(Tensor, Tensor.float, args), **tree_map_only(Tensor, Tensor.float, kwargs))

    return wrapped


def _ones(tensor: Tensor) -> list:
    """Stands for the contents of whole numbers: prompts of ones, all of their full length, and the second prompt."""
    return [1] * len(tensor) if tensor.ndim == 1 else [_ones(row) for row in tensor]


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that were made and live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._counted: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.count(tensor)
        return result

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._counted:
            self._counted[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self._counted.pop(key, 0)


class _Shapes(ExitStack):
    """Within the context tensors have no contents, autocast is on, and living bytes are counted.

    The tensors say that they are on the CPU, on every machine: without contents, all devices take the same.
    """

    def __init__(self, mixed_precision: str) -> None:
        super().__init__()
        self.dtype, self.live = LOW_PRECISION.get(mixed_precision), _Live()

    def __enter__(self) -> "_Shapes":
        super().__enter__()
        # What is no part of the trained model, such as a frozen text encoder, is let in as it is, and does not count.
        self.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        self.enter_context(patch.object(FakeTensor, "tolist", _ones))
        if self.dtype is not None:
            self.enter_context(torch.autocast("cpu", self.dtype))
        # Patched, because a mode of torch's would not reach what checkpointing computes again in the backward.
        self.enter_context(patch.object(F, "scaled_dot_product_attention", _attention))
        for name in FLOAT32:
            self.enter_context(patch.object(F, name, _in_float32(getattr(F, name))))
        self.enter_context(self.live)
        return self

    def empty(self, shape: Any, dtype: torch.dtype = torch.float32, *, requires_grad: bool = False) -> Tensor:
        return torch.empty(shape, dtype=dtype, requires_grad=requires_grad)

    def contents_of(self, module: nn.Module) -> dict[str, Tensor]:
        """Stand-ins for all parameters and buffers of a module; those that it shares are shared here too."""
        made: dict[int, Tensor] = {}
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        for _, tensor in tensors:
            if id(tensor) not in made:
                made[id(tensor)] = self.empty(tensor.shape, tensor.dtype, requires_grad=tensor.requires_grad)
        return {name: made[id(tensor)] for name, tensor in tensors}


def of_update(
    denoiser: Denoiser,
    shape: tuple[int, ...],
    samples: int,
    prompt_ids: tuple[int, int],
    mixed_precision: str,
) -> int:
    """Bytes at the peak of one forward and backward pass of `samples` latents, the model's own included.

    Shapes: `shape` (c, h, w) of a latent, `prompt_ids` (prompts, length).
    """
    with _Shapes(mixed_precision) as shapes:
        contents = shapes.contents_of(denoiser)
        trained = sum(tensor.numel() for tensor in contents.values() if tensor.requires_grad)
        noisy, timesteps = shapes.empty((samples, *shape)), shapes.empty(samples, torch.int64)
        prompts = shapes.empty(prompt_ids, torch.int64), shapes.empty(samples, torch.int64)
        target = shapes.empty((samples, *shape))
        functional_call(_Updating(denoiser), _inside(contents), (noisy, timesteps, *prompts, target))
        return shapes.live.peak + trained * OPTIMIZER


def of_drawing(
    pipe: DiffusionPipeline,
    denoiser: Denoiser,
    shape: tuple[int, ...],
    pictures: int,
    prompt_ids: tuple[int, int],
    mixed_precision: str,
) -> int:
    """Bytes at the peak of drawing pictures with the models in training: guidance computes every one twice."""
    with _Shapes(mixed_precision) as shapes, torch.no_grad():
        contents = shapes.contents_of(denoiser)
        idle = {id(module): shapes.contents_of(module) for module in drawing_models(pipe)}
        encoded = functional_call(_Encoding(denoiser), _inside(contents), (shapes.empty(prompt_ids, torch.int64),))
        inputs = shapes.empty((2 * pictures, *shape)), shapes.empty(2 * pictures, torch.int64)
        index = shapes.empty(2 * pictures, torch.int64)
        functional_call(_Predicting(denoiser), _inside(contents), (*inputs, encoded, index))
        functional_call(_Decoding(pipe.vae), _inside(idle[id(pipe.vae)]), (shapes.empty((1, *shape)),))
        return shapes.live.peak


class _Around(nn.Module):
    """Calls another method than forward: `functional_call` knows forward alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner


class _Updating(_Around):
    """Forward and backward in one: checkpointing computes parts of the forward again in the backward."""

    def forward(self, noisy: Tensor, timesteps: Tensor, prompt_ids: Tensor, index: Tensor, target: Tensor) -> None:
        predicted = self.inner(noisy, timesteps, prompt_ids, index).float()
        F.mse_loss(predicted, target, reduction="none").flatten(1).mean(1).sum().backward()


class _Encoding(_Around):
    def forward(self, prompt_ids: Tensor) -> Any:
        return self.inner.encode(prompt_ids)


class _Predicting(_Around):
    def forward(self, *inputs: Any) -> Tensor:
        return self.inner.predict(*inputs)


class _Decoding(_Around):
    def forward(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents, return_dict=False)[0]


def _inside(contents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"inner.{name}": tensor for name, tensor in contents.items()}


def estimated(
    pipe: DiffusionPipeline,
    models: Mapping[str, nn.Module],
    resolution: int,
    samples: int,
    pictures: int,
    mixed_precision: str,
    *,
    gradient_checkpointing: bool,
) -> Memory:
    """The memory of a training with these settings. `samples` are the photos and class images of a batch."""
    family = family_of(pipe)
    shape = family.latent_shape(pipe, resolution)
    words = (2, family.tokenize(pipe, [""]).shape[1])  # a prompt of the subject and one of its class, or an empty one
    modes = {name: model.training for name, model in models.items()}
    try:
        checkpointing(models, on=gradient_checkpointing)
        training = of_update(family.denoiser(pipe), shape, samples, words, mixed_precision)
        for model in models.values():
            model.eval()
        drawing = of_drawing(pipe, family.denoiser(pipe), shape, pictures, words, mixed_precision)
    finally:
        checkpointing(models, on=False)
        for name, model in models.items():
            model.train(modes[name])
    return Memory(training, drawing)
