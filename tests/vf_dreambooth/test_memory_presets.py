"""`--memory`: what fits a card, with the batch and the result as they were."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from train_dreambooth_vectorfit import main
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.memory_presets import PRESETS, fitted, next_smaller
from vf_training.runs import RunFolder


def config(photos: int, parts: int = 1, **named) -> TrainConfig:
    return TrainConfig("dog", train_batch_size=photos, gradient_accumulation_steps=parts, **named)


@given(st.integers(1, 24), st.integers(1, 4), st.sampled_from(list(PRESETS)), st.booleans())
def test_the_batch_stays_and_nothing_grows(photos, parts, card, checkpointed):
    before = config(photos, parts, gradient_checkpointing=checkpointed)
    after = fitted(before, card)
    assert after.effective_batch_size == before.effective_batch_size
    assert after.train_batch_size <= min(before.train_batch_size, PRESETS[card].photos)
    assert after.sample_batch_size <= before.sample_batch_size
    assert after.gradient_checkpointing >= before.gradient_checkpointing
    assert fitted(after, card) == after
    same = ("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "sample_batch_size")
    assert replace(after, **{name: getattr(before, name) for name in same}) == before


def test_advice_goes_down_card_by_card_to_the_end():
    settings, advised = config(4), []
    while (card := next_smaller(settings)) is not None:
        advised.append(card)
        settings = fitted(settings, card)
    assert advised == [16, 12, 8]
    assert next_smaller(config(8)) == 24


def test_the_trained_vectors_are_the_same_up_to_rounding(arguments, whole, tmp_path):
    main(arguments(tmp_path / "less", "--memory", 8))
    settings = RunFolder(tmp_path / "less").read_config()["settings"]
    assert (settings["train_batch_size"], settings["gradient_accumulation_steps"]) == (1, 2)
    assert settings["gradient_checkpointing"]
    vectors, less = (load_file(run / "vectors.safetensors") for run in (whole, tmp_path / "less"))
    # AdamW moves a number by about the rate, 1e-2, however small its gradient: near 0 rounding decides its sign.
    apart = torch.cat([(vectors[name] - less[name]).abs() for name in vectors])
    assert apart.median() < 1e-4


def test_other_sizes_are_refused(arguments, tmp_path):
    with pytest.raises(Exception, match="--memory: got 10, expected 24, 16, 12, 8"):
        main(arguments(tmp_path / "run", "--memory", 10))
