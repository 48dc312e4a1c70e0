"""Estimates time and memory of a training from a few updates on random latents."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn

from vf_training.device import peak_memory, synchronize

from . import memory, memory_presets
from .data import DataSampler, Latents
from .families import family_of
from .memory_presets import fitted
from .objective import Objective
from .optimization import Optimization
from .setup import Setup

WARM_UP, TIMED = 1, 3  # updates


@dataclass(frozen=True)
class Estimate:
    """Seconds of an update and of one denoising step of one picture, and the peak memory in bytes."""

    update: float
    denoising: float
    memory: int


def _timed(call: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - began


def measure(setup: Setup, pipe: DiffusionPipeline, vectors: dict, accelerator: Accelerator) -> Estimate:
    """Times a few updates of the same size as in training. The optimizer makes no step."""
    config, family = setup.config, family_of(pipe)
    zeros = torch.zeros(1, *family.latent_shape(pipe, config.resolution))
    latents = Latents(zeros, torch.ones_like(zeros))
    size = config.train_batch_size
    per_update = size * config.gradient_accumulation_steps * accelerator.num_processes
    prior = latents if config.with_class_samples else None
    data_sampler = DataSampler(latents, prior, size, per_update, family.noise_schedule(pipe), config.seed)
    objective = Objective(config, pipe, data_sampler, [None], vectors.values())
    denoiser = family.denoiser(pipe).to(accelerator.device)
    steps = range(1, 1 + WARM_UP + TIMED)
    times = [_timed(lambda step=step: objective.backward(denoiser, step, accelerator)) for step in steps]
    for vector in vectors.values():
        vector.grad = None
    batch = 2 * config.sample_batch_size  # guidance computes every image twice
    encoded = denoiser.encode(objective.prompt_ids[:1].to(accelerator.device))
    timesteps = torch.full((batch,), 10, device=accelerator.device)
    first_prompt = torch.zeros_like(timesteps)
    noisy = torch.randn(batch, *zeros.shape[1:], device=accelerator.device)

    def denoise() -> None:
        with torch.no_grad(), accelerator.autocast():
            denoiser.predict(noisy, timesteps, encoded, first_prompt)

    denoise()
    return Estimate(min(times[WARM_UP:]), _timed(denoise) / config.sample_batch_size, peak_memory())


def computed_memory(setup: Setup, pipe: DiffusionPipeline, models: Mapping[str, nn.Module]) -> list[str]:
    """What a GPU would need for these settings, and for those of every preset that changes them."""
    settings = {"these settings": setup.config}
    settings |= {f"--memory {card}": fitted(setup.config, card) for card in memory_presets.PRESETS}
    lines, seen = [], set()
    for name, config in settings.items():
        samples = config.train_batch_size * (2 if config.with_class_samples else 1)
        key = samples, config.sample_batch_size, config.gradient_checkpointing
        if key in seen:
            continue
        seen.add(key)
        found = memory.estimated(
            pipe,
            models,
            config.resolution,
            samples,
            config.sample_batch_size,
            config.mixed_precision,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        sizes = f"{found.training / 2**30:5.1f} GiB to train, {found.drawing / 2**30:.1f} GiB to draw"
        lines.append(f"             {name + ':':16}{sizes}")
    return ["estimated    on a GPU, from shapes; CUDA itself takes about half a GiB more", *lines]


def describe(setup: Setup, optimization: Optimization, estimate: Estimate, computed: list[str]) -> list[str]:
    """The lines of the dry run's report."""
    config = setup.config
    train = estimate.update * config.max_train_steps
    grids = config.num_validation_images and -(-config.max_train_steps // config.checkpointing_steps) + 1
    pictures = grids * config.num_validation_images * len(setup.previews)
    pictures += config.num_class_images if config.with_class_images and not config.class_data_dir else 0
    draw = pictures * setup.generation.num_inference_steps * estimate.denoising
    return [
        optimization.trained.table,
        f"trainable    {optimization.trained.summary}",
        f"steps        {config.max_train_steps} of {estimate.update:.2f} s: {train / 60:.1f} min",
        f"pictures     {pictures} to generate (class images and sample grids): {draw / 60:.1f} min",
        f"memory       {estimate.memory / 2**30:.1f} GiB at the peak of these updates, measured",
        *computed,
        "dry run      nothing was trained or written",
    ]


def report(setup: Setup, pipe: DiffusionPipeline, optimization: Optimization, accelerator: Accelerator) -> list[str]:
    """Measures a training and describes the estimate."""
    measured = measure(setup, pipe, optimization.vectors, accelerator)
    return describe(setup, optimization, measured, computed_memory(setup, pipe, optimization.trained.models))
