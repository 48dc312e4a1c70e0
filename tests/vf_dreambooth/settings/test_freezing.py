"""The flags under "adaptive vector freezing"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig


def test_freezing_needs_a_method_that_freezes():
    assert TrainConfig(instance_data_dir="dog", avf_every=3).freezes
    assert not TrainConfig(instance_data_dir="dog", avf=False).freezes
    with pytest.raises(VectorFitError, match="--avf_every: --no-avf freezes nothing"):
        TrainConfig(instance_data_dir="dog", avf=False, avf_every=3)
    with pytest.raises(VectorFitError, match="--avf_top_k: --method lora freezes nothing"):
        TrainConfig(instance_data_dir="dog", method="lora", avf_top_k=3)
