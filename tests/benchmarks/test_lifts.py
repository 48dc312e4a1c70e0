"""The trials of what could lift VectorFit change what they say, and nothing else."""

from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.lifts import ROWS, OwnWord, Row
from vf_dreambooth.base_models import starter_folder
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.optimization import rates_of


@pytest.fixture(scope="module")
def encoder():
    return CLIPTextModel.from_pretrained(starter_folder() / "text_encoder").eval().requires_grad_(False)


def encoded(encoder, *prompts):
    tokenizer = CLIPTokenizer.from_pretrained(starter_folder() / "tokenizer")
    ids = tokenizer(list(prompts), padding="max_length", max_length=16, return_tensors="pt").input_ids
    return encoder(ids).last_hidden_state


def test_an_own_word_begins_at_the_bases_and_changes_prompts_that_say_it(encoder):
    prompts = "a photo of a dog", "a photo of sks dog"
    before = encoded(encoder, *prompts)
    word = OwnWord(encoder)
    assert torch.equal(encoded(encoder, *prompts), before)
    with torch.no_grad():
        word.change.add_(0.5)
    plain, own = (encoded(encoder, *prompts) - before).abs().amax((1, 2))
    assert plain == 0
    assert own > 1e-3
    word.hook.remove()
    assert torch.equal(encoded(encoder, *prompts), before)


def test_an_own_word_is_trained_along_at_its_rate_and_comes_back(encoder, tmp_path):
    word, updates = OwnWord(encoder), []
    built = SimpleNamespace(after_update=lambda: updates.append(1))
    word.train_along(built, 1e-2, tmp_path / "word.pt")
    encoded(encoder, "sks").sum().backward()
    built.after_update()
    word.hook.remove()
    assert updates == [1]
    assert word.change.grad is None
    assert word.change.abs().max().item() == pytest.approx(1e-2, rel=1e-3)  # AdamW's first step
    again = OwnWord(encoder, torch.load(tmp_path / "word.pt", weights_only=True))
    again.hook.remove()
    assert torch.equal(again.change, word.change)


def test_a_rows_factors_are_of_the_rate_of_the_same_kind():
    config = TrainConfig(instance_data_dir=".", learning_rate=4e-2, bias_lr=4e-3)
    row = Row(factors={"*attn*.sigma": 0.5, "*attn*.bias": 2.0})
    assert [(rate.pattern, rate.value) for rate in row.rates(rates_of, config)] == [
        ("*attn*.sigma", pytest.approx(2e-2)),
        ("*attn*.bias", pytest.approx(8e-3)),
        ("*.bias", 4e-3),
        ("*", 4e-2),
    ]
    assert Row().rates(rates_of, config) == rates_of(config)


def test_the_default_comes_first_and_changes_nothing():
    assert next(iter(ROWS.items())) == ("the default", Row())
    assert len(set(map(str, ROWS.values()))) == len(ROWS)
