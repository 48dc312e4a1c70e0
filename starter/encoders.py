"""The starter's encoders: a small CLIP and a small ViT, for an evaluator that runs without a download.

Each is a folder of `config.json` (what to build, and how pictures are prepared) and `model.safetensors`.
"""

import json
from pathlib import Path

import torch
from open_clip import CLIP
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from . import tokenizer, world

CONTEXT = 24  # tokens; DreamBench's longest prompt takes 18
PREPARED = {"resize": world.SIZE, "crop": world.SIZE, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def clip_config() -> dict:
    """An open_clip model configuration of our own."""
    vocabulary = len(tokenizer.build())
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": world.SIZE, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 2},
    }


def dino_config() -> dict:
    """The arguments of timm's VisionTransformer."""
    sizes = {"embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0}
    return {"img_size": world.SIZE, "patch_size": 8, "num_classes": 0, "global_pool": "token", **sizes}


def build_clip() -> CLIP:
    return CLIP(**clip_config())


def build_dino() -> VisionTransformer:
    return VisionTransformer(**dino_config())


def save(model: nn.Module, folder: Path, architecture: str, config: dict) -> None:
    """Writes an encoder in fp16, with its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"architecture": architecture, "model": config, "preprocess": PREPARED}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def blurred(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the batches a little out of focus, all a little noisy, as what the latents' decoder makes of a scene."""
    if torch.rand(1, generator=generator) < 0.5:
        images = nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    return images + 0.06 * torch.randn(images.shape, generator=generator).to(images.device)
