"""What a run consists of, settled and announced before any model is loaded."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vectorfit import VectorFitError
from vectorfit.runs import RunFolder

from .base_models import BaseModel, resolve
from .cli import parse
from .config import TrainConfig
from .images import Photos, read_folder
from .pipeline import Sampling


@dataclass(frozen=True)
class Setup:
    """Settings with everything inferred, the base that is meant, the photos, and where the run goes."""

    config: TrainConfig
    base: BaseModel
    photos: Photos
    run: RunFolder
    sampling: Sampling


def prepare(arguments: Sequence[str] | None) -> Setup:
    """Settles a command line.

    Raises:
        VectorFitError: a value is out of range, photos are missing or damaged, the run folder is taken.
    """
    given = parse(arguments)
    base = resolve(given.base_model, given.revision)
    config = given.completed(base.preset)
    photos = read_folder(Path(config.instance_data_dir))
    run = RunFolder(config.output_dir)
    if run.vectors.exists():
        raise VectorFitError(f"--output_dir: {run.path} holds a finished run; give another folder or delete that one")
    preset = base.preset
    sampling = Sampling(preset.num_inference_steps, preset.guidance_scale, config.resolution, config.sample_batch_size)
    return Setup(config, base, photos, run, sampling)


def announce(setup: Setup, say: Callable[[str], None]) -> None:
    """Says everything that was chosen or inferred."""
    config, photos = setup.config, setup.photos
    chosen = " (chosen by what this machine has; --base_model takes another)" if config.base_model == "auto" else ""
    say(f"base model   {setup.base.name}{chosen}")
    say(f"photos       {len(photos.images)} from {config.instance_data_dir}")
    if photos.ignored:
        say(f"             passed over, not photos: {', '.join(photos.ignored)}")
    say(f"prompts      {config.instance_prompt!r} for the subject, {config.class_prompt!r} for its class")
    prior = config.class_data_dir or f"{config.num_class_images} class images, weight {config.prior_loss_weight}"
    say(f"prior        {prior if config.with_prior_preservation else 'none'}")
    images = f"{config.train_batch_size} photos" + (
        f" and {config.train_batch_size} class images" if config.with_prior_preservation else ""
    )
    say(f"training     {config.max_train_steps} steps of {images}, rate {config.learning_rate}, seed {config.seed}")
    times = f"at step {config.avf_first_step}, then every {config.avf_every}, {config.avf_num_freezes} times"
    say(f"freezing     {f'the top {config.avf_top_k} vectors {times}' if config.avf else 'none'}")
    say(f"run folder   {setup.run.path}")


def use_all_cores(num_processes: int) -> None:
    """Gives each process its share of the CPU's cores: `accelerate launch` leaves one thread unless told otherwise."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_processes))


def precision(config: TrainConfig) -> str | None:
    """The mixed precision to ask accelerate for; None keeps what was chosen with `accelerate launch`."""
    if config.mixed_precision != "auto":
        return config.mixed_precision
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return None
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # CPUs without bf16 instructions emulate them, ten times slower than float32.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
