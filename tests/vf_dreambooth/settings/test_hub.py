"""The flags under "hub"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig


def test_what_is_said_of_an_upload_needs_one():
    TrainConfig(instance_data_dir="dog", push_to_hub=True, hub_model_id="me/dog", hub_private_repo=True)
    TrainConfig(instance_data_dir="dog", hub_license="mit")  # a card is written without an upload too
    for given in ({"hub_model_id": "me/dog"}, {"hub_private_repo": True}):
        with pytest.raises(VectorFitError, match="nothing is uploaded without --push_to_hub"):
            TrainConfig(instance_data_dir="dog", **given)
