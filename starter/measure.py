"""Measures the starter and writes what its model card states: `python -m starter.measure`."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from . import encoders, judge, scenes, world
from .layout import CLIP_FOLDER, DINO_FOLDER, PIPELINE, WEIGHTS
from .subjects import SUBJECTS, shots
from .train_clip import CANDIDATES, naming, tokenize
from .train_dino import separation
from .train_judge import accuracy
from .train_vae import psnr

COUNT = 400  # pictures, seeds 0 to 399
VARIETY_NOUNS, VARIETY_SEEDS = 60, 12
STEPS, GUIDANCE = 20, 4.0


def asked(index: int) -> tuple[str, str]:
    """Class and ground of picture `index`: all classes and all grounds in turn, in ever new pairs."""
    grounds = list(world.BACKGROUNDS)
    return world.CLASSES[index % len(world.CLASSES)], grounds[(index + index // len(world.CLASSES)) % len(grounds)]


def load() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: StableDiffusionPipeline, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
    """Picture i answers prompt i with seed i."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), 20):
        images += pipe(
            prompts[start : start + 20],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[start : start + 20]],
            height=world.SIZE,
            width=world.SIZE,
        ).images
    return images


def prompt(cls: str, ground: str) -> str:
    return f"a photo of {world.article(cls)} {cls} {ground}"


def sheet(images: list[Image.Image], columns: int = 20, cell: int = 132) -> Image.Image:
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * cell, rows * cell), "white")
    for index, image in enumerate(images):
        picture.paste(image, (index % columns * cell + 2, index // columns * cell + 2))
    return picture


def _encoder(model: nn.Module, folder: Path) -> nn.Module:
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model.eval()


@torch.no_grad()
def text_scores(clip: nn.Module, images: list[Image.Image], prompts: list[str]) -> list[float]:
    """CLIP-T of each picture with its own prompt."""
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    seen = F.normalize(clip.encode_image(encoders.as_input(pixels)), dim=1)
    told = F.normalize(clip.encode_text(tokenize(prompts)), dim=1)
    return (seen * told).sum(1).tolist()


def evaluator(pipe: StableDiffusionPipeline, unseen: scenes.Scenes) -> dict[str, float]:
    """What the evaluator's encoders are worth on drawings that no training saw."""
    clip, dino = _encoder(encoders.build_clip(), CLIP_FOLDER), _encoder(encoders.build_dino(), DINO_FOLDER)
    by_class, by_ground = accuracy(judge.load(), unseen)
    taken = [(subject.cls, *shot) for name, subject in SUBJECTS.items() for shot in shots(name, subject)]
    captions = [prompt(cls, ground) for cls, ground, _ in taken]
    own = text_scores(clip, [photo for _, _, photo in taken], captions)
    base = text_scores(clip, generate(pipe, captions, list(range(len(captions)))), captions)
    return {
        f"clip_right_noun_of_{CANDIDATES}": naming(clip, unseen),
        "judge_class": by_class,
        "judge_ground": by_ground,
        "dino_auc_within_a_noun": separation(dino),
        "clip_t_of_subjects_photos": sum(own) / len(own),
        "clip_t_of_base_class_pictures": sum(base) / len(base),
    }


def variety(pipe: StableDiffusionPipeline, critic: judge.Judge) -> float:
    """Mean number of different drawings, by the judge, among 12 pictures of one noun, over 60 nouns."""
    nouns = world.CLASSES[:: len(world.CLASSES) // VARIETY_NOUNS][:VARIETY_NOUNS]
    prompts = [f"a photo of {world.article(noun)} {noun}" for noun in nouns for _ in range(VARIETY_SEEDS)]
    images = generate(pipe, prompts, [*range(VARIETY_SEEDS)] * len(nouns))
    names = judge.look(critic, images).drawings
    groups = [names[start : start + VARIETY_SEEDS] for start in range(0, len(names), VARIETY_SEEDS)]
    return sum(len(set(group)) for group in groups) / len(groups)


def main() -> None:
    pipe, critic = load(), judge.load()
    truth = [asked(index) for index in range(COUNT)]
    images = generate(pipe, [prompt(*pair) for pair in truth], list(range(COUNT)))
    seen = judge.look(critic, images)
    nouns = [got == cls for got, (cls, _) in zip(seen.classes, truth, strict=True)]
    grounds = [got == ground for got, (_, ground) in zip(seen.backgrounds, truth, strict=True)]
    result = {
        "vae_psnr_db_held_out": psnr(pipe.vae, scenes.cached(1000, scenes.HELD_OUT_SEED)),
        **evaluator(pipe, scenes.cached(1000, scenes.HELD_OUT_SEED, held_out=True, side=encoders.SIDE)),
        "generated": COUNT,
        "noun_recognised": sum(nouns) / COUNT,
        "ground_recognised": sum(grounds) / COUNT,
        f"drawings_among_{VARIETY_SEEDS}_pictures": variety(pipe, critic),
        "missed": [
            f"{index}: {' '.join(truth[index])}, seen {seen.classes[index]} {seen.backgrounds[index]}"
            for index in range(COUNT)
            if not (nouns[index] and grounds[index])
        ],
    }
    result = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    (WEIGHTS / "measured.json").write_text(json.dumps(result, indent=2) + "\n")
    sheet(images).save(WEIGHTS / "samples.jpg", quality=88)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
