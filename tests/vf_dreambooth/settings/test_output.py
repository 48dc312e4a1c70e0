"""The flags under "output"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth import trackers
from vf_dreambooth.config import TrainConfig


def test_every_tracker_can_be_chosen_and_no_other():
    for name in trackers.NAMES:
        assert TrainConfig(instance_data_dir="dog", report_to=name).report_to == name
    with pytest.raises(VectorFitError, match="--report_to: got 'all', expected one of tensorboard, wandb"):
        TrainConfig(instance_data_dir="dog", report_to="all")


def test_prompts_of_grids_need_grids():
    with pytest.raises(VectorFitError, match="--validation_prompts: there are no grids"):
        TrainConfig(instance_data_dir="dog", validation_prompts="rows.txt", num_validation_images=0)


def test_what_is_reported_does_not_shape_the_result():
    config = TrainConfig(instance_data_dir="dog", report_to="wandb", validation_data_dir="kept")
    assert not {"report_to", "validation_data_dir", "validation_prompts"} & config.shaping(1).keys()
