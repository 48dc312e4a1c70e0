"""What `benchmarks.gpu` measures, a function for each part. Models have random weights, in true sizes or tiny."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

import vectorfit as vf
from benchmarks import planner, sd14_step
from starter import tokenizer
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families import family_of
from vf_dreambooth.pipeline import GenerationSettings, adapted_models, generate_images, load_pipeline, set_subjects
from vf_training.device import best_device, peak_memory, synchronize

ROOT = Path(__file__).resolve().parents[1]
WORDS = 77  # tokens of a prompt


@dataclass(frozen=True)
class Size:
    """How large the models and the work are."""

    pixels: int
    batch: int  # photos, and as many class images
    steps: int
    class_images: int
    pictures: int  # drawn at once
    tiny: bool


FULL = Size(512, 4, 1000, 300, 8, tiny=False)
TINY = Size(16, 2, 3, 3, 2, tiny=True)


def seconds_of(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    synchronize()
    return time.perf_counter() - began


def build_tiny(device: torch.device) -> tuple[UNet2DConditionModel, CLIPTextModel, AutoencoderKL]:
    """A Stable Diffusion of a few thousand parameters."""
    with device:
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
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer.build()), **sizes))
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        vae = AutoencoderKL(**blocks, block_out_channels=(4, 8), norm_num_groups=4, sample_size=16)
    return unet, text_encoder, vae


def write_base(folder: Path, size: Size) -> Path:
    """A base with random weights in diffusers' layout, written once."""
    if not (folder / "model_index.json").exists():
        unet, text_encoder, vae = (build_tiny if size.tiny else sd14_step.build)(torch.device("cpu"))
        vocabulary = tokenizer.build()
        vocabulary.model_max_length = WORDS
        text_encoder.resize_token_embeddings(len(vocabulary))
        config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "skip_prk_steps": True}
        pipe = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=vocabulary,
            unet=unet,
            scheduler=PNDMScheduler(steps_offset=1, **config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(folder)
    return folder


def step(size: Size, work: Path, method: str, *, compiled: bool = False, channels_last: bool = False) -> dict[str, Any]:
    """Seconds of a training step, and memory."""
    backend = "aot_eager" if size.tiny else "inductor"  # which needs a compiler
    return sd14_step.measure(
        method,
        size.pixels // (2 if size.tiny else 8),
        size.batch,
        build=build_tiny if size.tiny else sd14_step.build,
        backend=backend if compiled else None,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def planning(size: Size, work: Path) -> dict[str, Any]:
    """Seconds of a step's adapted layers as the planner has chosen, and what timing each on this device would save."""
    pipe = load(resolve(str(write_base(work / "base", size)))).to(best_device())
    family, models, samples = family_of(pipe), adapted_models(pipe), 2 * size.batch
    vf.inject(models)
    denoiser, device = family.denoiser(pipe), best_device()
    prompts = family.tokenize(pipe, ["a photo of sks dog", "a photo of a dog"]).to(device)
    noisy = torch.randn(samples, *family.latent_shape(pipe, size.pixels), device=device)
    timesteps, index = torch.full((samples,), 500, device=device), torch.arange(samples, device=device) // size.batch

    @torch.no_grad()
    def forward() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            denoiser(noisy, timesteps, prompts, index)

    return planner.measure(models, forward, torch.bfloat16)


def factorise(size: Size, work: Path) -> dict[str, Any]:
    """Seconds to factorise every adapted weight, with nothing kept on disk."""
    os.environ["VECTORFIT_CACHE"] = "off"
    pipe = load(resolve(str(write_base(work / "base", size)))).to(best_device())
    return {"seconds": seconds_of(lambda: vf.inject(adapted_models(pipe)))}


def _subjects(size: Size, work: Path) -> list[Path]:
    """Two subject files of random changes."""
    files = [work / f"subject-{number}.safetensors" for number in range(2)]
    if not all(file.exists() for file in files):
        models = adapted_models(load(resolve(str(write_base(work / "base", size)))))
        vf.inject(models)
        for file in files:
            for vector in vf.vector_parameters(models).values():
                torch.nn.init.normal_(vector, std=1e-3)
            vf.save_vectors(models, file, base_model="base")
    return files


def drawing(size: Size, work: Path) -> dict[str, Any]:
    """Pictures a second, as the page and the evaluator draw them, and the memory that takes."""
    base = resolve(str(write_base(work / "base", size)))
    pipe = load_pipeline(base, [(_subjects(size, work)[0], 1.0)])
    steps = 2 if size.tiny else 50
    settings = GenerationSettings(steps, 7.5, size.pixels, size.pictures)
    seeds = list(range(size.pictures))

    def draw() -> None:
        generate_images(pipe, ["a photo of a dog"] * len(seeds), seeds, settings)

    draw()
    return {"pictures_per_second": size.pictures / seconds_of(draw), "memory": peak_memory()}


def switching(size: Size, work: Path) -> dict[str, Any]:
    """Seconds of a switch of subject, after the first, which hashes the base."""
    first, second = _subjects(size, work)
    pipe = load_pipeline(resolve(str(write_base(work / "base", size))), [(first, 1.0)])
    times = [seconds_of(lambda file=file: set_subjects(pipe, [(file, 1.0)])) for file in (second, first, second, first)]
    return {"seconds": statistics.median(times)}


def training(size: Size, work: Path, prior: str) -> dict[str, Any]:
    """Seconds from photos to subject file by the training command, its start included."""
    base, photos = write_base(work / "base", size), work / "dog"
    photos.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(5):
        pixels = random.integers(0, 255, (size.pixels, size.pixels, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    with tempfile.TemporaryDirectory(dir=work) as out:
        sizes = ("--resolution", size.pixels, "--max_train_steps", size.steps, "--train_batch_size", size.batch)
        images = ("--num_class_images", size.class_images) if prior == "class_images" else ()
        flags = ("--instance_dir", photos, "--base_model", base, "--output_dir", Path(out) / "run", "--prior", prior)
        command = [sys.executable, "-m", "train_dreambooth_vectorfit", *map(str, (*flags, *sizes, *images))]
        grids = ("--num_validation_images", "0")
        seconds = seconds_of(lambda: subprocess.run([*command, *grids], cwd=ROOT, check=True, capture_output=True))
    return {"seconds": seconds}


def tasks(size: Size, work: Path, method: str) -> dict[str, Any]:
    """Seconds of an update on an encoder of DeBERTaV3-base's shape."""
    from benchmarks import tasks_speed

    if size.tiny:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2}
        tasks_speed.SHAPE |= {"vocab_size": 1001, **small}
    found = tasks_speed.measure(method, size.batch * 2)
    return {name: found[name] for name in ("seconds", "memory")}


def tests(size: Size, work: Path) -> dict[str, Any]:
    """The tests that need a GPU."""
    wanted = ["tests/vectorfit/test_serving.py"] if size.tiny else ["tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "summary": lines[-1] if lines else done.stderr[-200:]}


# In the order in which they run: what tells most comes first, in case time runs out.
PARTS: dict[str, Callable[[Size, Path], dict[str, Any]]] = {
    "gpu tests": tests,
    **{f"step, {method}": partial(step, method=method) for method in ("frozen", "lora 2", "vectorfit", "full")},
    "factorising": factorise,
    "drawing": drawing,
    "switching": switching,
    "photos to subject, class images": partial(training, prior="class_images"),
    "photos to subject, no prior": partial(training, prior="none"),
    **{f"step, {method}, compiled": partial(step, method=method, compiled=True) for method in ("frozen", "vectorfit")},
    **{f"tasks, {method}": partial(tasks, method=method) for method in ("lora", "vectorfit")},
    "planner": planning,
    "step, vectorfit, channels_last": partial(step, method="vectorfit", channels_last=True),
}
