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
    assert {name for name, method in methods.METHODS.items() if method.freezing} == {"vectorfit", "random_freezing"}


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


@pytest.mark.parametrize("name", methods.METHODS)
def test_afterwards_what_it_trains_and_nothing_else_is_trainable(old, name):
    trained = methods.put_in(name, old.Model(), methods.Options(heads=old.HEAD, total_steps=8))
    trainable = {id(p) for p in trained.models[""].parameters() if p.requires_grad}
    assert trainable == {id(parameter) for parameter in trained.parameters.values()}
    counts = trained.counts
    assert counts["head_parameters"] == 3 * 8 + 3
    assert counts["parameters"] + counts["head_parameters"] == sum(p.numel() for p in trained.parameters.values())
    assert counts["base_parameters"] == sum(p.numel() for p in old.Model().parameters()) - counts["head_parameters"]
    assert trained.summary
    assert trained.table


def test_svft_is_the_papers_random_pattern_without_biases(old):
    trained = methods.put_in("svft", old.Model())
    assert {name.rpartition(".")[2] for name in trained.parameters} == {"sigma"}
    sizes = {name: parameter.numel() for name, parameter in trained.parameters.items()}
    assert sizes["layer.0.attention.query.sigma"] == 8 * 5 - 2 * 3  # as many as a band of two on each side
    layer = trained.models[""].layer[0].attention["query"]
    assert not (layer.positions[0] - layer.positions[1]).abs().le(2).all()


def test_the_size_of_a_method_is_its_own_unless_a_task_asks_for_another(old):
    def shape(**options):
        trained = methods.put_in("lora", old.Model(), methods.Options(**options))
        return next(iter(trained.parameters.values())).shape

    assert shape() == (2, 8)
    assert shape(size=3) == (3, 8)


def test_an_unknown_method_or_one_not_offered_is_refused_with_those_there_are():
    with pytest.raises(VectorFitError, match=r"method: got 'dora', expected one of vectorfit, .*l1"):
        methods.find("dora")
    with pytest.raises(VectorFitError, match=r"method: got 'l1', expected one of vectorfit, .*head$"):
        methods.find("l1", methods.TASKS)


def test_a_method_that_trains_nothing_is_refused(old):
    with pytest.raises(VectorFitError, match="trains nothing"):
        methods.put_in("head", old.Model())


def test_rates_are_vectorfits_where_a_row_has_none():
    assert methods.find("sigma").rate(methods.TASKS, 0.5) == 0.5
    assert methods.find("full").rate(methods.STARTER, 0.5) == 3e-4


def test_the_random_start_depends_on_the_seed_alone(old):
    def first(seed):
        trained = methods.put_in("lora", old.Model(), methods.Options(seed=seed))
        return next(iter(trained.parameters.values())).detach()

    assert first(1).equal(first(1))
    assert not first(1).equal(first(2))
    assert isinstance(methods.find("vectorfit").config, vf.VectorFitConfig)
