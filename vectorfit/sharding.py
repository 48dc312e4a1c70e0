"""Tensors that FSDP has split among processes."""

from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """The full tensor. Where FSDP has split it, every process must call this; any other tensor is returned as it is."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
