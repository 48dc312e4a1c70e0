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

from . import tokenizer

CONTEXT = 24  # tokens; DreamBench's longest prompt takes 18
SIDE = 64  # pixels that the encoders and the judge look at; scenes are halved
PREPARED = {"resize": SIDE, "crop": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def clip_config() -> dict:
    """An open_clip model configuration of our own: a small ResNet, which learns shapes from few pictures."""
    vocabulary = len(tokenizer.build())
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 24, "head_width": 96},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 96, "heads": 4, "layers": 2},
    }


def dino_config() -> dict:
    """The arguments of timm's VisionTransformer."""
    sizes = {"embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0}
    return {"img_size": SIDE, "patch_size": 8, "num_classes": 0, "global_pool": "token", **sizes}


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


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, s, s], uint8, as the encoders take them: [n, 3, 64, 64] in -1..1; larger ones are averaged."""
    return nn.functional.avg_pool2d(images.float() / 127.5 - 1, images.shape[-1] // SIDE)


def softened(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A third of the pictures a little out of focus, all a little noisy, as the latents' decoder draws a scene."""
    blurred = nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 1 / 3
    noise = torch.randn(images.shape, generator=generator)
    return torch.where(chosen.to(images.device), blurred, images) + 0.05 * noise.to(images.device)


def jittered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures shifted, scaled and mirrored at random, lighter or darker, as a photographer's would be."""
    count = len(images)
    theta = torch.zeros(count, 2, 3)
    zoom = 1 + 0.2 * (torch.rand(count, generator=generator) - 0.5)
    theta[:, 0, 0] = zoom * torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = zoom * (1 + 0.15 * (torch.rand(count, generator=generator) - 0.5))
    theta[:, :, 2] = 0.15 * (torch.rand(count, 2, generator=generator) - 0.5)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False).to(images.device)
    moved = nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, light = 0.3 * (torch.rand(2, count, 1, 1, 1, generator=generator).to(images.device) - 0.5)
    return moved * (1 + contrast) + light


def off_color(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures with their colour channels mixed at random: what a thing is must be told from its shape too."""
    mix = torch.eye(3) * 0.2 + 0.8 * torch.rand(len(images), 3, 3, generator=generator).softmax(-1)
    mix = mix[:, torch.randperm(3, generator=generator)].to(images.device)
    return torch.einsum("nij,njhw->nihw", mix, images)
