"""Linear layers that another library has quantised: how to know them, call them, and take their weight's values.

torchao's weights stand in an `nn.Linear` and know how they are multiplied. bitsandbytes' stand in layers of its own.
Neither library is imported here: both are known by the names of their classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .products import WeightCalls

BITSANDBYTES = ("Params4bit", "Int8Params")
SCALES = "vectorfit_scales"  # an attribute of bitsandbytes' int8 weights: their scales, which a first call takes away
INT8_MAX = 127


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is one of torchao's or bitsandbytes' quantised ones."""
    return type(weight).__name__ in BITSANDBYTES or _is_torchao(weight)


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's weight is quantised, or about to be."""
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not isinstance(module, nn.Linear | nn.Conv2d):
        return False
    return is_packed(weight) or not (weight.is_floating_point() or weight.is_complex())


def why_not(module: nn.Module) -> str:
    """The reason why a quantised layer cannot be trained on, or "" where it can."""
    weight: Any = module.weight
    kind, name = type(weight).__name__, type(module).__name__
    if not isinstance(module, nn.Linear):
        return f"its weight is quantised ({weight.dtype}) and it is a {name}, expected a linear layer"
    if kind in BITSANDBYTES:
        if weight.is_floating_point():
            return f"a {name} of bitsandbytes that is not quantised yet; move the model to its device first"
        return ""
    if _is_torchao(weight):
        return "" if _multiplies(module) else f"its weight, a {kind} of torchao, cannot be called or dequantised here"
    return (
        f"its weight is quantised ({weight.dtype}) and the layer does not say how it is called or dequantised; use "
        "torchao or bitsandbytes, or load the model in a float dtype"
    )


def _is_torchao(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("torchao.")


def _multiplies(module: nn.Linear) -> bool:
    """Whether torchao's weight can be called and dequantised on its device."""
    weight: Any = module.weight
    if weight.device.type == "meta":
        return True
    try:
        with torch.no_grad():
            x = torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device)
            return F.linear(x, weight).shape[1] == module.out_features and hasattr(weight, "dequantize")
    except (RuntimeError, NotImplementedError, TypeError):  # what torch raises where an operator has no kernel
        return False


def num_weights(parameter: Tensor) -> int:
    """How many weights a parameter stands for: a packed one holds fewer numbers."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def keep_readable(module: nn.Module) -> None:
    """Keeps a weight of bitsandbytes such that `dequantised` can read it alone.

    The first call of an int8 weight moves its scales into the layer's own state, and a CPU's inference repacks a 4-bit
    one; bitsandbytes undoes that itself when it saves.
    """
    weight: Any = module.weight
    if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse as unpacked

        weight.data, weight.quant_state = unpacked(weight.data, weight.quant_state)
    if type(weight).__name__ == "Int8Params" and getattr(weight, SCALES, None) is None:
        scales = weight.SCB
        setattr(weight, SCALES, scales if scales is not None else module.state.SCB)  # type: ignore[union-attr]


@torch.no_grad()
def dequantised(weight: Tensor) -> Tensor:
    """The values of a quantised weight, in the dtype that it is multiplied in. Shapes: result [out, in]."""
    packed: Any = weight
    if type(weight).__name__ == "Params4bit":
        import bitsandbytes

        values: Tensor = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
        return values
    if type(weight).__name__ == "Int8Params":
        scales: Tensor = getattr(packed, SCALES)
        numbers: Tensor = packed.data
        return numbers.float() * (scales.to(numbers.device)[:, None].float() / INT8_MAX)
    if not _is_torchao(weight):  # `detach` makes plain tensors of bitsandbytes' weights, without their scales
        raise TypeError(f"got a {type(weight).__name__}, expected a quantised weight itself")
    result: Tensor = packed.dequantize()
    return result


def call(base: nn.Module, weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """What the quantised layer does to x, with this bias instead of its own. Shapes: x [..., in], result [..., out]."""
    if _is_torchao(weight):
        y = F.linear(x.to(weight.dtype), weight).to(x.dtype)
    else:
        # A copy that shares everything but the bias: bitsandbytes multiplies in the layer, by the layer's own state.
        bare = type(base).__new__(type(base))
        bare.__dict__.update(base.__dict__)
        bare.__dict__ |= {"_parameters": {"weight": weight, "bias": None}, "training": True}  # in eval it may repack
        y = bare(x)
    return y if bias is None else y + bias.to(y.dtype)


class QuantisedCalls(WeightCalls):
    """The products that a quantised weight is called for; it is dequantised for the backward one."""

    def __init__(self, base: nn.Module) -> None:
        self.base = base

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return call(self.base, weight, x, None)

    def apply_transposed(self, g: Tensor, weight: Tensor) -> Tensor:
        return g @ dequantised(weight).to(g.dtype)

    # The other library rounds its product: in low precision a change is added to that, as LoRA's is.

    def beside(self, x: Tensor, weight: Tensor, s: Tensor, U: Tensor, h: Tensor) -> Tensor:
        return torch.addmm(h, s, U.T)

    def inside(self, x: Tensor, change: Tensor, weight: Tensor, s: Tensor, U: Tensor) -> Tensor:
        return torch.addmm(self.apply_weight(x + change, weight), s, U.T)
