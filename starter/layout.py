"""Where the starter's weights lie, and how they are written: fp16 safetensors in shards of at most 15 MB."""

import copy
from pathlib import Path

import torch
from torch import nn

WORK = Path(__file__).with_name("work")  # ignored by git: caches and resumable training states
WEIGHTS = Path(__file__).with_name("weights")
PIPELINE = WEIGHTS / "pipeline"  # the diffusers folder
JUDGE = WEIGHTS / "judge"
CLIP_FOLDER = WEIGHTS / "clip"
DINO_FOLDER = WEIGHTS / "dino"


def save_half(model: nn.Module, folder: Path) -> None:
    """Saves a diffusers or transformers model in fp16, leaving the given one as it is."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder, max_shard_size="15MB")
