"""The registry: what each row trains, who offers it, and that one name means one thing everywhere."""

import pytest
import torch

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training import methods

CORE = {"vectorfit", "no_avf", "sigma_a+b", "sigma", "sigma_a"}


def test_every_method_is_offered_and_explained():
    assert set(methods.names(methods.DREAMBOOTH)) | set(methods.names(methods.TASKS)) == set(methods.METHODS)
    assert len({method.about for method in methods.METHODS.values()}) == len(methods.METHODS)
    assert {name for name, method in methods.METHODS.items() if method.is_variant} == CORE
    assert {name for name, method in methods.METHODS.items() if method.freezes} == {"vectorfit", "random_freezing"}


@pytest.mark.parametrize(("name", "has_lots"), [("vectorfit", False), ("random_freezing", True)])
def test_only_random_freezing_depends_on_the_seed(old, name, has_lots):
    def frozen(seed):
        models = methods.put_in(name, old.Model()).models
        with torch.no_grad():
            next(iter(vf.vector_parameters(models).values())).fill_(1.0)
        schedule = {"first_step": 1, "every": 1, "num_freezes": 5, "top_k": 2}
        freezing = methods.find(name).freezing(models, seed=seed, **schedule)
        return [freezing.step(step) for step in range(1, 6)]

    assert frozen(0) == frozen(0)
    assert (frozen(0) != frozen(1)) == has_lots


def test_every_size_says_what_it_is():
    assert all(bool(method.size) == bool(method.size_of) for method in methods.METHODS.values())


def test_an_unknown_method_or_one_not_offered_is_refused_with_those_there_are():
    with pytest.raises(VectorFitError, match=r"method: got 'dora', expected one of vectorfit, .*l1"):
        methods.find("dora")
    with pytest.raises(VectorFitError, match=r"method: got 'l1', expected one of vectorfit, .*head$"):
        methods.find("l1", methods.TASKS)


def test_rates_are_vectorfits_where_a_row_has_none():
    assert methods.find("sigma").rate(methods.TASKS, 0.5) == 0.5
    assert methods.find("full").rate(methods.STARTER, 0.5) == 3e-4
