"""What a row of the registry answers."""

import vectorfit as vf
from vf_training.methods import vectors
from vf_training.methods.method import Method


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
