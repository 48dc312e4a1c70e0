"""Measures the starter and writes what its model card states: `python -m starter.measure`."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from . import judge, scenes, world
from .encoders import build_clip, build_dino
from .layout import CLIP_FOLDER, DINO_FOLDER, PIPELINE, WEIGHTS
from .train_clip import CANDIDATES, retrieval
from .train_dino import separation
from .train_judge import accuracy
from .train_vae import psnr

COUNT = 200
STEPS, GUIDANCE = 25, 4.0


def asked(index: int) -> tuple[str, str]:
    """Class and background of picture `index`: all 30 classes and 12 backgrounds in turn, in ever new pairs."""
    backgrounds = list(world.BACKGROUNDS)
    return world.CLASSES[index % len(world.CLASSES)], backgrounds[(index + index // 60) % len(backgrounds)]


def generate() -> list[Image.Image]:
    """Picture i answers a prompt for `asked(i)` with seed i."""
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in range(0, COUNT, 20):
        chunk = range(start, start + 20)
        pairs = [asked(i) for i in chunk]
        images += pipe(
            [f"a photo of {world.article(cls)} {cls} {background}" for cls, background in pairs],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(i) for i in chunk],
            height=world.SIZE,
            width=world.SIZE,
        ).images
    return images


def sheet(images: list[Image.Image], columns: int = 20, cell: int = 96) -> Image.Image:
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * cell, rows * cell), "white")
    for index, image in enumerate(images):
        place = (index % columns * cell, index // columns * cell)
        picture.paste(image.resize((cell - 4, cell - 4), Image.Resampling.LANCZOS), place)
    return picture


def encoders(held_out: scenes.Scenes) -> dict[str, float]:
    """What the evaluator's encoders are worth on what training never saw."""
    models = {CLIP_FOLDER: build_clip(), DINO_FOLDER: build_dino()}
    for folder, model in models.items():
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    return {
        f"clip_retrieval_among_{CANDIDATES}": round(retrieval(models[CLIP_FOLDER], held_out), 4),
        "dino_auc_of_held_out_subjects": round(separation(models[DINO_FOLDER]), 4),
    }


def main() -> None:
    held_out = scenes.cached(1000, scenes.HELD_OUT_SEED)
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    critic = judge.load()
    by_class, by_background = accuracy(critic, held_out)
    images = generate()
    seen = judge.look(critic, images)
    truth = [asked(index) for index in range(COUNT)]
    right = [
        (c == cls, b == background)
        for c, b, (cls, background) in zip(seen.classes, seen.backgrounds, truth, strict=True)
    ]
    missed = [
        f"{index}: {' '.join(truth[index])}"
        for index, (cls, background) in enumerate(right)
        if not (cls and background)
    ]
    result = {
        "vae_psnr_db_held_out": round(psnr(pipe.vae, held_out), 2),
        "judge_class_accuracy_on_renders": by_class,
        "judge_background_accuracy_on_renders": by_background,
        "generated": COUNT,
        "class_recognised": sum(cls for cls, _ in right) / COUNT,
        "background_recognised": sum(background for _, background in right) / COUNT,
        "missed": missed,
        **encoders(held_out),
    }
    (WEIGHTS / "measured.json").write_text(json.dumps(result, indent=2) + "\n")
    sheet(images).save(Path(WEIGHTS) / "samples.png")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
