"""Group norms and small convolutions of a UNet in channels-last layout, for a CPU with AMX.

oneDNN's convolutions take half the time in this layout, but torch's group norm takes five times as long there, and maps
of 4 x 4 leave the convolutions' loops empty. Here both are products of matrices.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 4  # side of the maps whose convolutions become products


class GroupNorm(torch.autograd.Function):
    """Group normalisation; the sums over places are products with ones, everything else is one affine map a channel.

    In bf16 a sum is rounded once, to 1/256 of itself: no more than the inputs are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        places = x.permute(0, 2, 3, 1).flatten(1, 2)  # [n, places, channels], a view
        n, count, channels = places.shape
        mean, square = (_over_groups(sums, groups) / count for sums in _sums(places, places * places))
        inverse = (square - mean.square() + eps).rsqrt()
        scale = inverse * weight.float()
        y = torch.addcmul((bias.float() - mean * scale).to(x.dtype), places, scale.to(x.dtype))
        ctx.save_for_backward(places, weight, mean, inverse)
        ctx.groups = groups
        return y.view(n, *x.shape[2:], channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        places, weight, mean, inverse = ctx.saved_tensors
        (gradient,) = gradients
        dy = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        of_dy, of_product = _sums(dy, dy * places)
        of_normal = (of_product - mean * of_dy) * inverse  # sums of dy * normalised x
        w, count = weight.float(), places.shape[1]
        shift = _over_groups(of_dy * w, ctx.groups) / count
        slope = _over_groups(of_normal * w, ctx.groups) / count * inverse
        dx = torch.addcmul(((mean * slope - shift) * inverse).to(dy.dtype), dy, (w * inverse).to(dy.dtype))
        dx = dx.addcmul_(places, (-slope * inverse).to(dy.dtype))
        dx = dx.view(len(dx), *gradient.shape[2:], -1).permute(0, 3, 1, 2)
        return dx, of_normal.sum((0, 1)).to(weight.dtype), of_dy.sum((0, 1)).to(weight.dtype), None, None


def _sums(*tensors: Tensor) -> list[Tensor]:
    """Over the places of each [n, places, channels]: [n, 1, channels] in float32."""
    ones = tensors[0].new_ones(1, 1, tensors[0].shape[1]).expand(len(tensors[0]), 1, -1)
    return [torch.bmm(ones, tensor).float() for tensor in tensors]


def _over_groups(sums: Tensor, groups: int) -> Tensor:
    """The mean over each group's channels, at every channel of it."""
    n, _, channels = sums.shape
    means = sums.view(n, groups, channels // groups).mean(2, keepdim=True)
    return means.expand(-1, -1, channels // groups).reshape(n, 1, channels)


class SmallConvolution(torch.autograd.Function):
    """A 3 x 3 convolution with a border of zeros as one product for each of output and gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        windows = _windows(x)
        ctx.save_for_backward(windows, weight)
        y = torch.addmm(bias, windows, weight.permute(2, 3, 1, 0).reshape(-1, len(weight)))
        return _as_maps(y, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        (gradient,) = gradients
        dy = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        turned = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, weight.shape[1])
        dx = _as_maps(_windows(gradient) @ turned, gradient)
        dw = (windows.T @ dy).view(3, 3, weight.shape[1], -1).permute(3, 2, 0, 1)
        return dx, dw.contiguous(), dy.sum(0)


def _windows(x: Tensor) -> Tensor:
    """The 3 x 3 surroundings of every place, one row each: [n * places, 9 * channels]."""
    height, width = x.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    parts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.cat(parts, 3).flatten(0, 2)


def _as_maps(rows: Tensor, like: Tensor) -> Tensor:
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


def _group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    if x.ndim != 4:
        return F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    x = x.contiguous(memory_format=torch.channels_last)
    return GroupNorm.apply(x, layer.weight, layer.bias, layer.num_groups, layer.eps)


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    plain = (layer.kernel_size, layer.stride, layer.padding, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
    if plain and x.shape[2:] == (SMALL, SMALL):
        return SmallConvolution.apply(x, layer.weight, layer.bias)
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def lay_out(module: nn.Module) -> None:
    """Turns a module to channels-last, with these layers in the place of torch's own. Parameters stay what they are."""
    module.to(memory_format=torch.channels_last)
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.forward = partial(_group_norm, layer)  # type: ignore[method-assign]
        elif isinstance(layer, nn.Conv2d):
            layer.forward = partial(_convolution, layer)  # type: ignore[method-assign]
