"""The flags under "base model"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig
from vf_training.options import dependents


def test_another_base_has_another_resolution_revision_and_variant():
    assert {"resolution", "revision", "variant", "learning_rate"} <= dependents(TrainConfig, "base_model")


def test_the_resolution_fits_the_latents():
    assert TrainConfig(instance_data_dir="dog", resolution=64).resolution == 64
    with pytest.raises(VectorFitError, match="--resolution: got 60, expected a multiple of 8"):
        TrainConfig(instance_data_dir="dog", resolution=60)
