"""One training step of Stable Diffusion v1.4: VectorFit, LoRA and the frozen floor. `python -m benchmarks.sd14_step`

The full-size UNet, VAE and text encoder with random weights. On CUDA at 512 pixels with batch 4 + 4 in bf16; on a CPU a
reduced step, 32 x 32 latents and batch 1 + 1. Every method runs in a process of its own, so that peaks do not mix.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.methods import EXPLAINED, adapt
from benchmarks.table import write_table
from vf_dreambooth.families.stable_diffusion import StableDiffusionDenoiser
from vf_training.device import best_device, describe_device, has_accelerator, peak_memory, synchronize

METHODS = ("frozen", "lora 2", "vectorfit")
RESULT = Path(__file__).with_suffix(".md")
REPEATS = 5
NOTES = f"""{EXPLAINED} The ratio is to the floor of the same run. Preparing is factorising every weight for
VectorFit, and adding the adapters for LoRA. Seconds are the fastest of five steps after one for warming
up; memory is the peak of the whole process (on CUDA, of the allocator), model and VAE included."""


def build(device: torch.device) -> tuple[UNet2DConditionModel, CLIPTextModel, AutoencoderKL]:
    """Stable Diffusion v1.4 by its configurations, with random weights."""
    torch.manual_seed(0)
    with device:
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
    return unet, text_encoder, vae.requires_grad_(False)


def measure(
    method: str,
    side: int,
    batch: int,
    *,
    build: Callable[[torch.device], tuple] = build,
    backend: str | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, float]:
    """Seconds to prepare and per step, peak bytes, and the numbers trained; of another size by another `build`.

    `backend` is torch.compile's; None compiles nothing. `memory_format` is that of the UNet's convolutions.
    """
    device = torch.device(best_device())
    unet, text_encoder, _vae = build(device)
    models = {"unet": unet.to(memory_format=memory_format), "text_encoder": text_encoder}
    began = time.perf_counter()
    parameters = adapt(method, models)
    prepared = time.perf_counter() - began
    optimizer = torch.optim.AdamW(parameters, lr=1e-5) if parameters else None
    denoiser, schedule = StableDiffusionDenoiser(models["unet"], models["text_encoder"]), DDPMScheduler()
    denoiser = torch.compile(denoiser, backend=backend) if backend else denoiser
    latents, noise = torch.randn((2, 2 * batch, 4, side, side), device=device)
    words = torch.randint(0, text_encoder.config.vocab_size - 1, (2, 77), device=device)
    index = torch.arange(2 * batch, device=device) // batch
    timesteps = torch.randint(0, 1000, (2 * batch,), device=device)
    seconds = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        noisy = schedule.add_noise(latents, noise, timesteps).requires_grad_(not parameters)
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.mse_loss(denoiser(noisy, timesteps, words, index).float(), noise)
        loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize()
        seconds.append(time.perf_counter() - began)
    trained = sum(p.numel() for p in parameters)
    return {"prepare": prepared, "step": min(seconds[1:]), "memory": peak_memory(), "trained": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=METHODS, help="measure this one here and print it as JSON")
    on_gpu = has_accelerator()
    parser.add_argument("--latents", type=int, default=64 if on_gpu else 32, help="side of the latents")
    parser.add_argument("--batch", type=int, default=4 if on_gpu else 1, help="photos, and as many class images")
    flags = parser.parse_args()
    if flags.method:
        print(json.dumps(measure(flags.method, flags.latents, flags.batch)))
        return
    sizes = ["--latents", str(flags.latents), "--batch", str(flags.batch)]
    results = {}
    for method in METHODS:
        command = [sys.executable, "-m", "benchmarks.sd14_step", "--method", method, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[method] = json.loads(done.stdout.splitlines()[-1])
        print(method, results[method], flush=True)
    floor = results["frozen"]["step"]
    rows = [
        [
            name,
            f"{found['trained']:,}",
            f"{found['step']:.3f}",
            f"{found['step'] / floor:.2f}",
            f"{found['memory'] / 2**30:.1f}",
            f"{found['prepare']:.1f}",
        ]
        for name, found in results.items()
    ]
    where = describe_device() if on_gpu else f"{platform.machine()} {describe_device()}"
    size = f"{flags.latents} x {flags.latents} latents, batch {flags.batch} + {flags.batch}"
    header = ["method", "numbers trained", "s per step", "ratio", "peak GiB", "s to prepare"]
    notes = f"{NOTES}\n\nMeasured on: {where}, bf16 autocast, torch {torch.__version__}."
    write_table(
        RESULT,
        f"A step of Stable Diffusion v1.4: {size}",
        f"python -m benchmarks.sd14_step {' '.join(sizes)}",
        header,
        rows,
        notes,
    )


if __name__ == "__main__":
    main()
