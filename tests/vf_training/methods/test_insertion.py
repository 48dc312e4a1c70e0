"""What a method trains once it is in models."""

import pytest

import vectorfit as vf
from vectorfit import VectorFitError
from vf_training import methods


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


def test_a_method_that_trains_nothing_is_refused(old):
    with pytest.raises(VectorFitError, match="trains nothing"):
        methods.put_in("head", old.Model())


def test_the_random_start_depends_on_the_seed_alone(old):
    def first(seed):
        trained = methods.put_in("lora", old.Model(), methods.Options(seed=seed))
        return next(iter(trained.parameters.values())).detach()

    assert first(1).equal(first(1))
    assert not first(1).equal(first(2))
    assert isinstance(methods.find("vectorfit").config, vf.VectorFitConfig)
