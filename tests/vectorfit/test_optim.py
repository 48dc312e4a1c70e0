"""Learning rates by the names of vectors."""

import math
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vectorfit as vf


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    models = {name: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)) for name in ("unet", "text_encoder")}
    vf.inject(models)
    return vf.vector_parameters(models)


def names_by_group(groups, vectors):
    names = {id(vector): name for name, vector in vectors.items()}
    return {group["name"]: [names[id(vector)] for vector in group["params"]] for group in groups}


def test_the_first_matching_pattern_gives_the_rate(vectors):
    rates = {"text_encoder.*": 1e-3, "*.sigma": 4e-2, "*": 4e-3}
    groups = vf.parameter_groups(vectors, rates)
    assert names_by_group(groups, vectors) == {
        "text_encoder.*": [name for name in vectors if name.startswith("text_encoder.")],
        "*.sigma": ["unet.0.sigma", "unet.1.sigma"],
        "*": ["unet.0.bias", "unet.1.bias"],
    }
    assert [group["lr"] for group in groups] == [1e-3, 4e-2, 4e-3]


def test_every_vector_is_in_one_group(vectors):
    groups = vf.parameter_groups(vectors, {"*.bias": 1.0, "unet.*": 2.0, "*": 3.0})
    ids = [id(vector) for group in groups for vector in group["params"]]
    assert sorted(ids) == sorted(map(id, vectors.values()))


NAMES = [f"{model}.{layer}.{kind}" for model in ("unet", "text") for layer in "ab" for kind in ("sigma", "bias")]
PATTERNS = ("unet.*", "text.*", "*.sigma", "*.bias", "*.a.*", "unet.a.sigma", "vae.*", "*")


@given(st.dictionaries(st.sampled_from(PATTERNS), st.floats(0, 10)), st.sets(st.sampled_from(NAMES), min_size=1))
def test_groups_are_a_partition_by_first_match_or_refused(rates, names):
    vectors = {name: nn.Parameter(torch.zeros(1)) for name in sorted(names)}
    first = {name: next((p for p in rates if fnmatchcase(name, p)), None) for name in vectors}
    if None in first.values() or set(rates) - set(first.values()):
        with pytest.raises(vf.VectorFitError, match="rates: "):
            vf.parameter_groups(vectors, rates)
        return
    groups = vf.parameter_groups(vectors, rates)
    assert [(group["name"], group["lr"]) for group in groups] == list(rates.items())
    found = names_by_group(groups, vectors)
    assert found == {pattern: [name for name in vectors if first[name] == pattern] for pattern in rates}


def test_a_rate_for_each_kind(vectors):
    groups = vf.parameter_groups(vectors, {"*.sigma": 4e-2, "*.bias": 4e-3})
    assert [group["lr"] for group in groups] == [4e-2, 4e-3]
    assert all(name.endswith(group[1:]) for group, names in names_by_group(groups, vectors).items() for name in names)


def test_adamw_steps_every_group_by_its_own_rate(vectors):
    optimizer = torch.optim.AdamW(vf.parameter_groups(vectors, {"*.sigma": 0.5, "*": 0.25}), weight_decay=0.0)
    for vector in vectors.values():
        vector.grad = torch.ones_like(vector)
    optimizer.step()
    for name, vector in vectors.items():  # AdamW's first step is the rate, against the gradient's sign
        expected = -0.5 if name.endswith(".sigma") else -0.25
        torch.testing.assert_close(vector.detach(), torch.full_like(vector, expected))
    assert [group["name"] for group in optimizer.param_groups] == ["*.sigma", "*"]


def test_a_rate_of_zero_holds_a_group_still(vectors):
    assert [group["lr"] for group in vf.parameter_groups(vectors, {"*.bias": 0, "*": 1e-2})] == [0, 1e-2]


def test_all_problems_are_named_at_once(vectors):
    with pytest.raises(vf.VectorFitError) as error:
        vf.parameter_groups(vectors, {"unet.*": 1e-3, "unet.0.sigma": 1e-2, "vae.*": 1e-3, "*.Sigma": 1e-3})
    message = str(error.value)
    assert "'unet.0.sigma' matches only vectors that earlier patterns match" in message
    assert "'vae.*' matches no vector" in message
    assert "'*.Sigma' matches no vector" in message
    for name in ("text_encoder.0.sigma", "text_encoder.1.bias"):
        assert name in message.partition("no pattern matches")[2]


@pytest.mark.parametrize("rate", [-1e-3, math.inf, math.nan])
def test_a_rate_that_is_no_rate_is_refused(vectors, rate):
    with pytest.raises(vf.VectorFitError, match=r"'\*' has the rate"):
        vf.parameter_groups(vectors, {"*": rate})
