"""A Stable Diffusion of a few thousand parameters, saved in diffusers layout, and a folder of photos."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

import vectorfit as vf
from starter import tokenizer
from train_dreambooth_vectorfit import main
from vf_dreambooth import families, run_writer
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.pipeline import adapted_models


def build_tiny(seed: int = 0) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    vocabulary = tokenizer.build()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.MAX_LENGTH,
            bos_token_id=vocabulary.bos_token_id,
            eos_token_id=vocabulary.eos_token_id,
            pad_token_id=vocabulary.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=4,
        sample_size=16,
    )
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=vocabulary,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    build_tiny().save_pretrained(folder)
    return folder


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "dog")


@pytest.fixture
def arguments(photos, tiny_base, quick_preset):
    """The command line of a training of four steps: arguments(output folder, further flags)."""
    return command_line(photos, tiny_base)


def command_line(photos: Path, tiny_base: Path) -> Callable[..., list[str]]:
    def build(output: Path, *more: object) -> list[str]:
        flags = {
            "--instance_dir": photos,
            "--base_model": tiny_base,
            "--output_dir": output,
            "--resolution": 16,
            "--max_train_steps": 4,
            "--train_batch_size": 2,
            "--num_class_images": 3,
            "--learning_rate": 1e-2,
            "--checkpointing_steps": 2,
            "--num_validation_images": 0,
            "--avf_first_step": 2,
            "--avf_every": 1,
            "--avf_num_freezes": 2,
            "--avf_top_k": 3,
            "--mixed_precision": "no",
        }
        if "--no-avf" in more:
            flags = {name: value for name, value in flags.items() if not name.startswith("--avf_")}
        return [str(part) for pair in flags.items() for part in pair] + [str(flag) for flag in more]

    return build


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)  # other folders' tests leave theirs
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


QUICK = families.Preset(16, 1e-2, 4, 3, 2, 2.0)


@pytest.fixture
def quick_preset(monkeypatch):
    monkeypatch.setitem(StableDiffusion.presets, families.SD14, QUICK)


@pytest.fixture
def figures():
    """Asked for by who looks at a run's figures."""


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
    """A run's figures take longer to draw than the tests' trainings."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(run_writer, "write_training", lambda *_: [])


@pytest.fixture(scope="session")
def _trained(tiny_base, tmp_path_factory) -> Path:
    """A folder with a finished run of the plain `arguments`, and its class images beside it."""
    folder, photos = tmp_path_factory.mktemp("trained"), write_photos(tmp_path_factory.mktemp("photos") / "dog")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECTORFIT_CACHE", "off")
        patch.setitem(StableDiffusion.presets, families.SD14, QUICK)
        patch.setattr(run_writer, "write_training", lambda *_: [])
        main(command_line(photos, tiny_base)(folder / "whole"))
    return folder


@pytest.fixture
def whole(_trained, tmp_path) -> Path:
    """What `main(arguments(tmp_path / "whole"))` leaves, its class images included, but trained once for all tests."""
    shutil.copytree(_trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "whole"


def write_subject(path: Path, tiny_base: Path, seed: int) -> Path:
    """A subject file of random deltas on the tiny base."""
    pipe = load(resolve(str(tiny_base)))
    models = adapted_models(pipe)
    vf.inject(models)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for vector in vf.vector_parameters(models).values():
            vector.normal_(std=0.3, generator=generator)
    vf.save_vectors(models, path, base_model=str(tiny_base))
    return path


@pytest.fixture
def subject(tiny_base, tmp_path) -> Path:
    return write_subject(tmp_path / "subject.safetensors", tiny_base, 0)


@pytest.fixture
def other_subject(tiny_base, tmp_path) -> Path:
    return write_subject(tmp_path / "other.safetensors", tiny_base, 1)
