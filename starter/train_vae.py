"""Trains the AutoencoderKL (128 px <-> 16 x 16 x 8) on rendered scenes: `python -m starter.train_vae`."""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from . import scenes
from .fitting import arguments, device, fit
from .layout import PIPELINE, save_half

CROP = 64  # pixels; most updates see a quarter of a scene, which costs a quarter, and there are four times as many
CROPPED = 0.84  # share of the updates on crops


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=scenes.world.SIZE,
        mid_block_add_attention=False,
    ).to(device())


def psnr(vae: AutoencoderKL, held_out: scenes.Scenes, count: int = 500) -> float:
    """Mean peak signal-to-noise ratio in dB of reconstructions (posterior mean) of held-out scenes, per picture."""
    values = []
    for start in range(0, count, 50):
        batch = held_out.batch(torch.arange(start, start + 50), device())
        with torch.no_grad():
            rebuilt = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        mse = ((rebuilt - batch) / 2).square().mean((1, 2, 3))
        values.append(-10 * mse.log10())
    return torch.cat(values).mean().item()


def _preview(vae: AutoencoderKL, held_out: scenes.Scenes, path: Path) -> str:
    batch = held_out.batch(torch.arange(32), device())
    with torch.no_grad():
        rebuilt = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
    rows = torch.stack([batch, rebuilt], 1).unflatten(0, (8, 4)).permute(0, 4, 1, 2, 5, 3)
    picture = ((rows.reshape(8 * 128, 8 * 128, 3).float().cpu() + 1) * 127.5).byte().numpy()
    Image.fromarray(picture).save(path)
    return f"held-out PSNR {psnr(vae, held_out):.2f} dB"


def main() -> None:
    flags = arguments(__doc__, steps=9200, batch=8, rate=1.5e-3, scenes=16000)
    data = scenes.cached(flags.scenes, scenes.TRAINING_SEED)
    held_out = scenes.cached(1000, scenes.HELD_OUT_SEED)
    torch.manual_seed(0)
    vae = build()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(data.captions), (flags.batch,), generator=generator)
        batch = data.batch(index, device())
        if step < CROPPED * flags.steps:
            top, left = torch.randint(scenes.world.SIZE - CROP + 1, (2,), generator=generator).tolist()
            batch = batch[..., top : top + CROP, left : left + CROP]
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(batch.device)
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return F.l1_loss(rebuilt, batch) + F.mse_loss(rebuilt, batch) + 1e-6 * posterior.kl().mean()

    fit(
        "vae",
        vae,
        loss,
        steps=flags.steps,
        rate=flags.rate,
        preview=lambda path: _preview(vae, held_out, path),
        preview_every=500,
        weight_decay=0.0,
    )
    latents = torch.cat(
        [
            vae.encode(data.batch(torch.arange(i, i + 50), device())).latent_dist.mode().detach()
            for i in range(0, 1000, 50)
        ]
    )
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    assert math.isfinite(vae.config.scaling_factor)
    save_half(vae, PIPELINE / "vae")


if __name__ == "__main__":
    main()
