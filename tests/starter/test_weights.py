import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from starter import judge, measure, scenes, tokenizer
from starter.layout import CLIP_FOLDER, DINO_FOLDER, JUDGE, PIPELINE, WEIGHTS


def bytes_of(*folders):
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.safetensors"))


def test_the_weights_are_small_enough_to_keep():
    assert bytes_of(PIPELINE) <= 64_000_000
    assert bytes_of(CLIP_FOLDER, DINO_FOLDER, JUDGE) <= 12_000_000
    assert max(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 16_000_000


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def unseen():
    """Scenes of drawings that no training saw, at full size."""
    return scenes.render(100, scenes.HELD_OUT_SEED, held_out=True)


def test_it_draws_by_the_fast_scheduler_that_its_preset_counts_on(pipe):
    assert isinstance(pipe.scheduler, DPMSolverMultistepScheduler)


def test_the_tokenizer_is_the_one_the_world_builds(pipe):
    assert pipe.tokenizer.get_vocab() == tokenizer.build().get_vocab()
    assert pipe.tokenizer.model_max_length == tokenizer.MAX_LENGTH
    assert len(pipe.text_encoder.get_input_embeddings().weight) == len(pipe.tokenizer)


def test_the_vae_rebuilds_scenes_of_drawings_that_it_never_saw(pipe, unseen):
    from starter.train_vae import psnr

    assert psnr(pipe.vae, unseen, count=50) >= 27


def test_the_judge_recognises_drawings_that_it_never_saw(unseen):
    alone = [index for index, scene in enumerate(unseen.scenes) if scene.beside is None]
    seen = judge.look(judge.load(), [Image.fromarray(unseen.images[i].permute(1, 2, 0).numpy()) for i in alone])
    nouns = [got == unseen.scenes[i].cls for got, i in zip(seen.classes, alone, strict=True)]
    grounds = [got == unseen.scenes[i].background for got, i in zip(seen.backgrounds, alone, strict=True)]
    assert sum(nouns) / len(alone) >= 0.6  # of 206 nouns; the model card has what a thousand scenes give
    assert sum(grounds) / len(alone) >= 0.97


@pytest.mark.slow
def test_generated_pictures_show_what_was_asked_for():
    truth = [measure.asked(index) for index in range(measure.COUNT)]
    images = measure.generate(measure.load(), [measure.prompt(*pair) for pair in truth], list(range(measure.COUNT)))
    seen = judge.look(judge.load(), images)
    nouns = sum(got == cls for got, (cls, _) in zip(seen.classes, truth, strict=True)) / measure.COUNT
    grounds = sum(got == ground for got, (_, ground) in zip(seen.backgrounds, truth, strict=True)) / measure.COUNT
    assert nouns >= 0.9
    assert grounds >= 0.97
    recorded = json.loads((WEIGHTS / "measured.json").read_text())
    assert abs(nouns - recorded["noun_recognised"]) <= 0.02
