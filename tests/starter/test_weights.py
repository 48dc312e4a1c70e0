import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from starter import judge, measure, scenes, tokenizer, world
from starter.layout import PIPELINE, WEIGHTS
from starter.train_unet import terse_ids


def test_the_pipeline_is_small_enough_to_keep():
    files = [path for path in PIPELINE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert max(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 16_000_000


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_tokenizer_is_the_one_the_world_builds(pipe):
    assert pipe.tokenizer.get_vocab() == tokenizer.build().get_vocab()
    assert pipe.tokenizer.model_max_length == tokenizer.MAX_LENGTH


def test_the_word_sks_is_in_no_caption_and_is_read_as_describing_words_are(pipe):
    data, vocabulary = scenes.render(400, scenes.TRAINING_SEED), tokenizer.build()
    sks = vocabulary.get_vocab()["sks</w>"]
    for ids in (
        vocabulary(data.captions, padding="max_length", return_tensors="pt").input_ids,
        terse_ids(data, vocabulary),
    ):
        assert not (ids == sks).any()
    weight = pipe.text_encoder.get_input_embeddings().weight.detach()
    colors = weight[[vocabulary.get_vocab()[f"{name}</w>"] for name in world.COLORS]]
    shares = torch.linalg.lstsq(
        torch.cat([colors, torch.ones(5, 1)], 1).T, torch.cat([weight[sks], torch.ones(1)])
    ).solution
    torch.testing.assert_close(shares @ colors, weight[sks], atol=2e-3, rtol=0)


def test_the_vae_rebuilds_held_out_scenes(pipe):
    from starter.train_vae import psnr

    assert psnr(pipe.vae, scenes.render(50, scenes.HELD_OUT_SEED), count=50) >= 27


def test_the_judge_recognises_rendered_scenes():
    from starter.train_judge import accuracy

    by_class, by_background = accuracy(judge.load(), scenes.render(300, scenes.HELD_OUT_SEED + 1))
    assert by_class >= 0.95
    assert by_background >= 0.95


def test_what_is_asked_for_is_spread_evenly():
    pairs = [measure.asked(index) for index in range(measure.COUNT)]
    for part in zip(*pairs, strict=True):
        counts = [part.count(value) for value in set(part)]
        assert max(counts) - min(counts) <= 1
    assert len(set(pairs)) > 150


@pytest.mark.slow
def test_generated_pictures_show_what_was_asked_for():
    seen, truth = judge.look(judge.load(), measure.generate()), [measure.asked(i) for i in range(measure.COUNT)]
    classes = sum(got == asked for got, (asked, _) in zip(seen.classes, truth, strict=True)) / measure.COUNT
    backgrounds = sum(got == asked for got, (_, asked) in zip(seen.backgrounds, truth, strict=True)) / measure.COUNT
    assert classes >= 0.95
    assert backgrounds >= 0.97
    recorded = json.loads((WEIGHTS / "measured.json").read_text())
    assert abs(classes - recorded["class_recognised"]) <= 0.02
