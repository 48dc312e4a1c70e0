"""What a row of the registry and a method in models answer."""

import pytest
import torch

import vectorfit as vf
from vf_training import methods
from vf_training.methods import vectors
from vf_training.methods.method import Method, modules_of, parameters_of


def test_a_rate_is_the_methods_own_where_it_has_one():
    method = Method("m", "", "vectors:VECTORS", rates={"somewhere": 0.1})
    assert method.rate("somewhere", 0.5) == 0.1
    assert method.rate("elsewhere", 0.5) == 0.5


def test_a_variant_is_a_method_by_the_name_of_the_cores():
    config = {"variant": "sigma"}
    assert Method("sigma", "", "vectors:VECTORS", config).is_variant
    assert not Method("svft", "", "vectors:VECTORS", config).is_variant
    assert not Method("lora", "", "vectors:VECTORS").is_variant
    assert not Method("lora", "", "vectors:VECTORS").trains_vectors


def test_what_a_row_names_is_imported_when_it_is_asked_for():
    method = Method("m", "", "vectors:VECTORS", {"variant": "sigma"}, freezing_at="vectors:adaptive_freezing")
    assert method.technique is vectors.VECTORS
    assert method.freezing is vectors.adaptive_freezing
    assert method.freezes
    assert method.config == vf.VectorFitConfig(variant="sigma")
    assert method.penalty is None
    plain = Method("m", "", "vectors:VECTORS")
    assert (plain.freezing, plain.freezes, plain.config) == (None, False, None)


def test_parameters_and_modules_of_several_models_have_the_models_names(old):
    models = {"a": old.Model(), "b": torch.nn.Linear(2, 3)}
    assert parameters_of(models)["b.weight"] is models["b"].weight
    assert modules_of(models)["a.layer.1"] is models["a"].layer[1]
    assert modules_of(models)["b"] is models["b"]
    assert len(parameters_of(models)) == len(list(models["a"].parameters())) + 2
    assert parameters_of(models["b"]).keys() == {"weight", "bias"}


@pytest.mark.parametrize("name", ["vectorfit", "lora", "full"])
def test_counts_and_summary_are_the_numbers_trained(old, name):
    trained = methods.put_in(name, old.Model(), methods.Options(heads=old.HEAD))
    counts, total = trained.counts, sum(parameter.numel() for parameter in old.Model().parameters())
    head = 3 * 8 + 3
    assert counts["head_parameters"] == head
    assert counts["base_parameters"] == total - head
    own = {"vectorfit": 2 * (8 + 8) + 2 * (8 + 8) + 2 * (8 + 12) + 2 * (8 + 8), "full": total - head}
    own["lora"] = 2 * 2 * ((8 + 8) + (8 + 8) + (8 + 12) + (12 + 8))
    assert counts["parameters"] == own[name]
    shown = own[name] if name == "vectorfit" else own[name] + head  # a plan counts the heads apart
    assert f"{shown:,}" in trained.summary


def test_what_is_in_a_head_is_told_by_whole_parts_of_the_path(old):
    trained = methods.put_in("full", old.Model(), methods.Options(heads=old.HEAD))
    assert trained.in_head("classifier.weight")
    assert not trained.in_head("classifier2.weight")
    assert not trained.in_head("layer.0.classifier.weight")
