"""What other tools read: plain merged weights, the best LoRA of a rank, and the exact difference.

`U diag(d_sigma) Vh` is already a singular value decomposition of dW, so its r largest |d_sigma| are the best
approximation of rank r that there is (Eckart-Young), and cost nothing to find. For a wider pattern M [r, r] is
decomposed first, which serves as well, since U and Vh are orthonormal.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import VectorFitError
from .fingerprint import canonical_name
from .inject import holders_of_modules, replace
from .injection import drop_records
from .layers import VectorFitLayer
from .modules import Models, vectorfit_layers
from .svd import in_float64

NAMINGS = ("diffusers", "kohya", "peft")


@dataclass(frozen=True)
class Export:
    """Tensors by the names that another tool expects, and how much of the change they carry.

    `kept` is the share of ||dW|| (Frobenius, over all layers) and `biases` the share of ||db|| that is carried.
    """

    tensors: dict[str, Tensor]
    kept: float
    biases: float


def bake(models: Models) -> None:
    """Makes the effective weights the models' own and puts plain layers back: nothing of VectorFit remains."""
    holders = holders_of_modules(models)
    with torch.no_grad():
        for _, layer in list(vectorfit_layers(models)):
            weight, bias = layer.composed()
            weight, bias = weight.clone(), None if bias is None else bias.clone()
            layer.base.weight.data.copy_(weight)
            if bias is not None:
                layer.base.bias.data.copy_(bias)
            layer.base.train(layer.training)
            replace(holders, layer, layer.base)
    drop_records(models)


def _with_text_model(path: str) -> str:
    """The path as published Stable Diffusion files have it: text encoders with their `text_model.` level."""
    prefix, _, rest = path.partition(".")
    return f"{prefix}.text_model.{rest}" if prefix == "text_encoder" else path


def _kohya(path: str) -> str:
    path = _with_text_model(path)
    for prefix, short in (("unet.", "lora_unet_"), ("text_encoder.", "lora_te_")):
        if path.startswith(prefix):
            return short + path.removeprefix(prefix).replace(".", "_")
    raise VectorFitError(
        f"{path}: kohya's names are for a unet and a text_encoder; use the peft naming for other models"
    )


def _layers(models: Models) -> list[tuple[str, VectorFitLayer]]:
    layers = sorted((canonical_name(path), layer) for path, layer in vectorfit_layers(models))
    if not layers:
        raise VectorFitError("the model has no VectorFit layers to export; load a subject first")
    return layers


def _norm(parts: list[Tensor]) -> float:
    return math.sqrt(sum(float(in_float64(part).square().sum()) for part in parts))


def _low_rank(layer: VectorFitLayer, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of dW: up [out, r] and down [r, in], each with the square root of its singular value."""
    assert layer.d_sigma is not None
    d_sigma = layer.strength * layer.d_sigma.detach().float()
    U, values, Vh = layer.pattern.singular_form(layer.U, d_sigma, layer.Vh, layer.positions)
    largest = values.abs().topk(min(rank, len(values))).indices
    root = values[largest].abs().sqrt()
    up = U[:, largest] * (root * values[largest].sign())
    return up, root[:, None] * Vh[largest]


def _shaped(layer: VectorFitLayer, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as a convolution's LoRA has them: filters, then a 1 x 1."""
    if layer.weight.ndim == 4:
        return up[..., None, None], down.view(-1, *layer.weight.shape[1:])
    return up, down


def lora(models: Models, rank: int, naming: str = "diffusers", *, biases: bool = False) -> Export:
    """The best LoRA of a rank, in the names of "diffusers", "kohya" or "peft".

    With `biases` the bias deltas come along exactly, as PEFT's `lora_bias` (not in kohya's names, which have none).

    Shapes: `lora_A` or `lora_down` [r, in], `lora_B` or `lora_up` [out, r], float32.

    Raises:
        VectorFitError: a rank below 1, an unknown naming, nothing to export.
    """
    if rank < 1:
        raise VectorFitError(f"rank: got {rank}, expected at least 1")
    if naming not in NAMINGS:
        raise VectorFitError(f"naming: got {naming!r}, expected one of {', '.join(NAMINGS)}")
    if biases and naming == "kohya":
        raise VectorFitError(
            "kohya's format has no names for biases; use the diffusers naming, or the exact difference"
        )
    tensors: dict[str, Tensor] = {}
    kept, total, lost = [], [], []
    for path, layer in _layers(models):
        if layer.d_bias is not None:
            lost.append(layer.d_bias.detach())
        if layer.d_sigma is None:
            continue
        up, down = _low_rank(layer, rank)
        kept.append(torch.linalg.vector_norm(up, dim=0) * torch.linalg.vector_norm(down, dim=1))
        total.append(layer.strength * layer.d_sigma.detach())
        up, down = _shaped(layer, up, down)
        if naming == "kohya":
            name = _kohya(path)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))
            continue
        name = _with_text_model(path) if naming == "diffusers" else f"base_model.model.{path}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        if biases:
            delta = layer.d_bias
            tensors[f"{name}.lora_B.bias"] = (
                torch.zeros(len(layer.U)) if delta is None else layer.strength * delta.detach()
            )
    share = _norm(kept) / _norm(total) if total and _norm(total) else 1.0
    carried = 1.0 if biases or not _norm(lost) else 0.0
    return Export(_on_cpu(tensors), share, carried)


def difference(models: Models) -> Export:
    """The exact change, `NAME.diff` for weights and `NAME.diff_b` for biases, in kohya's names (ComfyUI reads both).

    Shapes: as the base's weights and biases, float32.
    """
    tensors: dict[str, Tensor] = {}
    for path, layer in _layers(models):
        name = _kohya(path)
        if layer.d_sigma is not None:
            change = layer.change(layer.strength * layer.d_sigma.detach())
            tensors[f"{name}.diff"] = layer.unmatrix(change, layer.weight.shape)
        if layer.d_bias is not None:
            tensors[f"{name}.diff_b"] = layer.strength * layer.d_bias.detach()
    return Export(_on_cpu(tensors), 1.0, 1.0)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in sorted(tensors.items())}
