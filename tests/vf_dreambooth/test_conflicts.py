"""Settings that contradict a method or each other."""

import pytest

from vf_dreambooth.conflicts import freezes, freezing_conflict, prior_conflict


@pytest.mark.parametrize(
    ("avf", "method", "why"),
    [
        (True, "vectorfit", ""),
        (False, "vectorfit", "--no-avf freezes nothing"),
        (True, "lora", "--method lora freezes"),
    ],
)
def test_freezing_needs_avf_and_a_method_that_freezes(avf, method, why):
    values = {"avf": avf, "method": method}
    assert freezes(values) == (why == "")
    assert freezing_conflict(values).startswith(why)
    assert bool(freezing_conflict(values)) == bool(why)


def test_a_method_of_a_wrong_name_freezes_nothing_and_is_reported_elsewhere():
    assert not freezes({"avf": True, "method": "vectorfitt"})
    assert prior_conflict({"prior": "drift", "method": "vectorfitt"}) == ""


def test_drift_is_of_vectors():
    assert "--method lora has none" in prior_conflict({"prior": "drift", "method": "lora"})
    assert prior_conflict({"prior": "drift", "method": "vectorfit"}) == ""
    assert prior_conflict({"prior": "class_images", "method": "lora"}) == ""
