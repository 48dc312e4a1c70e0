"""A subject of random vectors, and its LoRA in kohya's names as changes of a publisher's own checkpoint."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

import vectorfit as vf
from vectorfit.export import Naming, lora
from vectorfit.layers import VectorFitLayer

ZEROS = torch.zeros(21504)  # Flux's widest layer: divides into all parts that a converter cuts out


def with_a_subject(model: nn.Module) -> dict[str, Tensor]:
    """Puts random vectors into a model; returns the change of every weight by its path."""
    vf.inject(model, vf.VectorFitConfig(variant="sigma"))
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_(std=0.1)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, VectorFitLayer)}
    return {path: layer.change(layer.d_sigma.detach()).detach() for path, layer in layers.items()}


class Checkpoint(dict):
    """What diffusers' converters read: the changes that a LoRA makes in a publisher's weights, and zeros.

    ComfyUI and kohya name a layer by the weight in the checkpoint, with underscores for points and lora_unet_ before
    it. Source: `model_lora_keys_unet` in ComfyUI's comfy/lora.py, `create_modules` in kohya's networks/lora_flux.py.
    """

    def __init__(self, lora_file: dict[str, Tensor], marks: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(marks))  # names that tell a converter how many blocks there are, and which
        self.changes = {}
        for layer in {key.split(".")[0] for key in lora_file}:
            up, down = lora_file[f"{layer}.lora_up.weight"], lora_file[f"{layer}.lora_down.weight"]
            self.changes[layer] = float(lora_file[f"{layer}.alpha"]) / len(down) * up @ down

    def __missing__(self, name: str) -> Tensor:
        return self.changes.get("lora_unet_" + name.removesuffix(".weight").replace(".", "_"), ZEROS)

    def pop(self, name: str) -> Tensor:
        found = self[name] if name.endswith(".weight") else ZEROS
        self.changes.pop("lora_unet_" + name.removesuffix(".weight").replace(".", "_"), None)
        return found


def kohya_checkpoint(model: nn.Module, naming: Naming, marks: Iterable[str]) -> Checkpoint:
    """The LoRA of full rank of a transformer in kohya's names."""
    return Checkpoint(lora({"transformer": model}, 9999, naming).tensors, marks)
