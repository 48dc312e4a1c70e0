"""The flags under "prior preservation"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig


def settings(**given) -> TrainConfig:
    return TrainConfig(instance_data_dir="dog", **given)


@pytest.mark.parametrize(
    ("prior", "reason"), [("drift", "what vectors changed"), ("base_prediction", "found by disabling vectors")]
)
def test_a_prior_that_needs_vectors_refuses_methods_without(prior, reason):
    assert settings(prior=prior).prior == prior
    with pytest.raises(VectorFitError, match=f"--prior: .*{reason}, and --method lora has none"):
        settings(prior=prior, method="lora")


def test_what_belongs_to_another_prior_is_refused():
    with pytest.raises(VectorFitError, match="--drift_weight: --prior base_prediction has no such penalty"):
        settings(prior="base_prediction", drift_weight=1.0)
    with pytest.raises(VectorFitError, match="--class_data_dir: --prior base_prediction uses no class images"):
        settings(prior="base_prediction", class_data_dir="dogs")


def test_two_priors_have_class_samples():
    priors = ("class_images", "base_prediction", "drift", "none")
    assert [settings(prior=prior).with_class_samples for prior in priors] == [True, True, False, False]
