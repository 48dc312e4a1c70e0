"""The flags under "subject"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig


def settings(**given) -> TrainConfig:
    return TrainConfig(instance_data_dir="dog", **given)


@pytest.mark.parametrize("name", ["unmasked_weight", "caption_dropout"])
def test_fractions_are_from_0_to_1(name):
    for value in (0.0, 0.5, 1.0):
        assert getattr(settings(**{name: value}), name) == value
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(VectorFitError, match=f"--{name}: got .*, expected 0 to 1"):
            settings(**{name: value})


def test_words_are_printable_and_a_folder_is_needed():
    with pytest.raises(VectorFitError, match="--token: got"):
        settings(token="s\nks")
    with pytest.raises(VectorFitError, match="--instance_dir: not given, expected a folder with photos"):
        TrainConfig()
