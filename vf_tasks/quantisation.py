"""Quantises a task's base before the method is put in: `--quantise`."""

from typing import Any

import torch
from torch import nn

from vectorfit import VectorFitError
from vf_training.device import has_accelerator

NONE = "none"


def quantise(model: nn.Module, kind: str, head: tuple[str, ...]) -> None:
    """Quantises the linear layers in place, but for the head and output layers, which stay as they are.

    Raises:
        VectorFitError: the library is not installed.
    """
    if kind == NONE:
        return
    layers = {path: module for path, module in model.named_modules() if _is_quantised(path, module, model, head)}
    if kind == "nf4":
        _nf4(model, layers)
        return
    try:
        import torchao.quantization as torchao
    except ImportError as error:
        raise VectorFitError(f"--quantise {kind}: needs torchao; pip install 'vectorfit[quantised]'") from error
    four_bit: Any = torch.int4  # type: ignore[attr-defined]  # torch adds it at run time
    config = torchao.Int8WeightOnlyConfig() if kind == "int8" else torchao.IntxWeightOnlyConfig(weight_dtype=four_bit)
    chosen = {id(module) for module in layers.values()}
    torchao.quantize_(model, config, lambda module, path: id(module) in chosen)


def _is_quantised(path: str, module: nn.Module, model: nn.Module, head: tuple[str, ...]) -> bool:
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    inside = any(path == part or path.startswith(f"{part}.") for part in head)
    return type(module) is nn.Linear and module is not output and not inside


def _nf4(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    try:
        import bitsandbytes
    except ImportError as error:
        raise VectorFitError("--quantise nf4: needs bitsandbytes; pip install bitsandbytes") from error
    device = "cuda" if has_accelerator() and torch.cuda.is_available() else "cpu"
    for path, module in layers.items():
        old: Any = module
        kind = bitsandbytes.nn.Linear4bit
        new = kind(
            old.in_features,
            old.out_features,
            old.bias is not None,
            compute_dtype=old.weight.dtype,
            quant_type="nf4",
        )
        new.load_state_dict(old.state_dict())
        model.set_submodule(path, new.requires_grad_(False).to(device))
