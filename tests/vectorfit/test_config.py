"""What a configuration trains by role, and what it refuses."""

import pytest
import torch

import vectorfit as vf
from vectorfit.config import VARIANTS
from vectorfit.roles import ATTENTION, FEED_FORWARD, OTHER

ROLES = (ATTENTION, FEED_FORWARD, OTHER)


def test_the_variants_are_nested_as_the_paper_orders_them():
    trained = {
        name: {(kind, role) for role in ROLES for kind in vf.VectorFitConfig(variant=name).kinds(role)}
        for name in VARIANTS
    }
    assert trained["sigma_a"] < trained["sigma"] < trained["vectorfit"] == trained["no_avf"]
    assert trained["sigma_a"] < trained["sigma_a+b"] < trained["vectorfit"]
    assert len(trained["vectorfit"]) == 2 * len(ROLES)


def test_sigma_and_bias_by_role():
    model = torch.nn.ModuleDict(
        {"attn": torch.nn.Linear(4, 4), "mlp": torch.nn.Linear(4, 6), "rest": torch.nn.Linear(4, 5)}
    )

    def vectors(variant):
        vf.inject(model, vf.VectorFitConfig(variant=variant))
        names = set(vf.vector_parameters(model))
        vf.remove(model)
        return names

    assert vectors("sigma_a") == {"attn.sigma"}
    assert vectors("sigma_a+b") == {"attn.sigma", "attn.bias", "mlp.bias"}
    assert vectors("sigma") == {"attn.sigma", "mlp.sigma", "rest.sigma"}
    assert len(vectors("vectorfit")) == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_norms_are_trained_where_biases_are_and_all_of_them_are_asked_for(variant):
    trains_biases = variant in ("vectorfit", "no_avf", "sigma_a+b")
    assert not vf.VectorFitConfig(variant=variant).trains_norms
    assert vf.VectorFitConfig(variant=variant, bias="all").trains_norms == trains_biases


def test_lists_of_names_become_tuples_so_that_equal_choices_are_equal():
    config = vf.VectorFitConfig(target_modules=["a", "b"], exclude_modules=iter(["c"]), modules_to_save=["d"])
    assert (config.target_modules, config.exclude_modules, config.modules_to_save) == (("a", "b"), ("c",), ("d",))
    assert config == vf.VectorFitConfig(target_modules=("a", "b"), exclude_modules=("c",), modules_to_save=("d",))
    assert hash(config) == hash(vf.VectorFitConfig(**vars(config)))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"variant": "sigmas"}, "variant: got 'sigmas', expected one of vectorfit"),
        ({"bias": "none"}, "bias: got 'none', expected 'layers' or 'all'"),
        ({"pattern": "wide"}, "pattern: got 'wide', expected one of plain"),
        ({"pattern": "banded", "pattern_width": 0}, "pattern_width: got 0, expected at least 1"),
        ({"target_modules": "to_q"}, r"target_modules: got the string 'to_q', expected a list of names: \['to_q'\]"),
        ({"modules_to_save": "head"}, "modules_to_save: got the string 'head'"),
    ],
)
def test_what_is_out_of_range_is_named_with_what_is_expected(choice, message):
    with pytest.raises(vf.VectorFitError, match=message):
        vf.VectorFitConfig(**choice)


def test_the_pattern_is_that_of_the_name_and_width():
    assert vf.VectorFitConfig().matrix_pattern.is_diagonal
    wider = vf.VectorFitConfig(pattern="banded", pattern_width=2).matrix_pattern
    assert wider.size(6) == 6 + 2 * (5 + 4)  # the diagonal, and two beside it on each side
