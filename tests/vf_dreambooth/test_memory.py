"""Memory by arithmetic: on models whose tensors can be counted by hand, and on Stable Diffusion's true sizes."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import vectorfit as vf
from vectorfit import layers
from vf_dreambooth import memory
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.pipeline import adapted_models
from vf_dreambooth.residency import store_low

GIB = 2**30


class Two(nn.Module):
    """Two matrices, of which the first is trained: its input is kept for the gradient, that of the second is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.second.requires_grad_(False)

    def forward(self, noisy: Tensor, timesteps: Tensor, prompt_ids: Tensor, index: Tensor) -> Tensor:
        return self.second(self.first(noisy))


def test_a_peak_that_can_be_counted_by_hand():
    samples, unit = 128, 128 * 64 * 4
    weights, integers, labels = 2 * 64 * 64 * 4, 8 * (2 * samples + 2 * 77), unit
    found = memory.of_update(Two(), (64,), samples, (2, 77), "no")
    optimizer = 64 * 64 * memory.OPTIMIZER
    # Beside weights, input and target: at least prediction, squared error and its gradient; at most six of that size.
    least = weights + integers + labels + unit + optimizer + 3 * unit
    assert least <= found <= least + 3 * unit + 64 * 64 * 4


@pytest.fixture
def tiny(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    models = adapted_models(pipe)
    for model in models.values():
        model.requires_grad_(False)
    vf.inject(models)
    return pipe, models


def test_it_grows_with_the_batch_and_shrinks_with_checkpointing_and_leaves_the_models_alone(tiny):
    pipe, models = tiny
    before = {name: value.clone() for name, value in vf.vector_parameters(models).items()}
    modes = {name: model.training for name, model in models.items()}

    def training(samples: int, checkpointing: bool = False) -> int:
        found = memory.estimated(pipe, models, 32, samples, 1, "bf16", gradient_checkpointing=checkpointing)
        return found.training

    small, large = training(2), training(16)
    assert small < large
    assert training(4) - small == pytest.approx((large - small) / 7, rel=0.05)  # in proportion to the samples
    assert training(16, True) < large
    assert {name: model.training for name, model in models.items()} == modes
    assert not models["unet"].is_gradient_checkpointing
    assert all(torch.equal(value, before[name]) for name, value in vf.vector_parameters(models).items())
    assert all(value.grad is None for value in vf.vector_parameters(models).values())


def test_drawing_grows_with_the_pictures_and_leaves_the_safety_checker_out(tiny):
    pipe, models = tiny

    def drawing(pictures: int) -> int:
        return memory.estimated(pipe, models, 32, 2, pictures, "bf16", gradient_checkpointing=False).drawing

    few, many = drawing(1), drawing(64)
    assert few < many
    pipe.safety_checker = nn.Linear(1000, 1000)
    assert drawing(64) == many


def factors_without_contents(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, device = min(weight.shape), weight.device
    sizes = ((len(weight), r), (r,), (r, weight.shape[1]))
    U, sigma, Vh = (torch.empty(size, device=device) for size in sizes)
    return U, sigma, Vh


@pytest.fixture(scope="module")
def sd14():
    """Stable Diffusion v1.4 adapted, in its full size, without contents."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "factors", factors_without_contents)
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        text_encoder = CLIPTextModel(CLIPTextConfig(**sizes))
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        models = {"unet": unet, "text_encoder": text_encoder}
        for model in models.values():
            model.requires_grad_(False)
        vf.inject(models)
    store_low(models, "bf16")
    for model in models.values():
        model.train()
    checker = nn.Linear(304_000, 1000, device="meta")  # the safety checker's 304 million numbers
    parts = {**models, "vae": vae, "scheduler": DDPMScheduler(), "safety_checker": checker}
    parts["tokenizer"] = lambda prompts, **_: SimpleNamespace(
        input_ids=torch.zeros(len(prompts), 77, dtype=torch.int64)
    )
    parts["tokenizer"].model_max_length = 77
    pipe = type("StableDiffusionPipeline", (SimpleNamespace,), {})(**parts, components=parts, vae_scale_factor=8)
    assert StableDiffusion().latent_shape(pipe, 512) == (4, 64, 64)
    return pipe, models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photos", "checkpointing", "pictures", "train", "draw"),
    [(4, False, 8, 14, 6), (4, True, 8, 8, 6), (2, False, 8, 10, 6), (1, False, 4, 8, 6), (1, True, 1, 6, 6)],
)
def test_stable_diffusion_fits_its_presets(sd14, photos, checkpointing, pictures, train, draw):
    """512 pixels, bf16, as many class images as photos: docs/gpu.md has the figures."""
    found = memory.estimated(*sd14, 512, 2 * photos, pictures, "bf16", gradient_checkpointing=checkpointing)
    assert found.training <= train * GIB
    assert found.drawing <= draw * GIB
