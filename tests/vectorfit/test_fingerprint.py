"""How a file knows its base: hashes that see every bit, sketches that forgive rounding, probes that measure dW."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vectorfit as vf
from vectorfit import fingerprint
from vectorfit.record import injection_of

NAMES = st.lists(st.sampled_from(["text_model", "encoder", "layers", "0", "q_proj"]), min_size=1)


def layers(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 15)).to(dtype)
    vf.inject(net)
    return injection_of(net).layers


@given(NAMES)
def test_a_canonical_name_lacks_the_level_and_nothing_else(parts):
    name = fingerprint.canonical_name(".".join(parts))
    assert name == ".".join(part for part in parts if part != "text_model")
    assert fingerprint.canonical_name(name) == name


def test_layers_are_in_the_order_of_their_canonical_paths_whatever_the_models():
    found = layers()
    named = {"text_encoder.text_model.b": found["0"], "text_encoder.a": found["1"]}
    assert list(fingerprint.by_canonical_path(named)) == ["text_encoder.a", "text_encoder.b"]
    assert list(fingerprint.by_canonical_path(named, {"text_encoder.b"})) == ["text_encoder.b"]


def test_the_hash_of_the_base_sees_every_bit_and_no_vector():
    first, second = layers(), layers()
    before = fingerprint.weights_sha256(first)
    assert fingerprint.weights_sha256(second) == before
    with torch.no_grad():
        first["0"].d_sigma.fill_(0.5)
    assert fingerprint.weights_sha256(first) == before
    vf.merge(nn.ModuleDict(first.items()))  # the base's own bits are remembered
    assert fingerprint.weights_sha256(first) == before
    with torch.no_grad():
        second["1"].weight.view(-1)[3].nextafter_(torch.tensor(9.0))
    assert fingerprint.weights_sha256(second) != before


def test_the_hash_of_a_file_depends_on_names_shapes_and_bits_but_not_on_the_order():
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    own = fingerprint.tensors_sha256(tensors)
    assert fingerprint.tensors_sha256(dict(reversed(tensors.items()))) == own
    others = [
        {"c": tensors["a"], "b": tensors["b"]},
        {"a": tensors["a"].view(2, 3), "b": tensors["b"]},
        {"a": tensors["a"].double(), "b": tensors["b"]},
        {"a": tensors["a"], "b": -tensors["b"]},  # minus zero is another number
    ]
    assert len({own, *map(fingerprint.tensors_sha256, others)}) == 5


def test_a_sketch_forgives_rounding_and_tells_another_model():
    own = layers()
    sketch = fingerprint.sketch(own)
    matrices = {path: fingerprint.base_matrix(layer) for path, layer in own.items()}
    assert fingerprint.sketch_of_matrices(matrices, sketch) == sketch
    rounded = fingerprint.sketch(layers(dtype=torch.bfloat16))
    assert fingerprint.unlike_layers(sketch, rounded) == []
    matrices["1"] = 1.1 * matrices["1"]
    assert fingerprint.unlike_layers(sketch, fingerprint.sketch_of_matrices(matrices, sketch)) == ["1"]
    for damaged in ("", "[]", '{"0": [1]}', "null"):
        assert fingerprint.unlike_layers(damaged, sketch) == ["0", "1"]


def test_a_probe_estimates_the_norm_of_the_change():
    torch.manual_seed(1)
    net = nn.Sequential(*[nn.Linear(30, 30) for _ in range(60)])
    vf.inject(net)
    found = injection_of(net).layers
    deltas = {f"{path}.sigma": torch.randn(30) for path in found}
    values = fingerprint.probe(found, deltas)
    assert len(values) == fingerprint.PROBES * len(found)
    squared_norm = sum(float(delta.square().sum()) for delta in deltas.values())  # of dW: U and Vh are orthonormal
    estimate = sum(value**2 for value in values) / fingerprint.PROBES
    assert estimate == pytest.approx(squared_norm, rel=0.3)


def test_the_difference_of_probes_is_the_relative_error_of_the_change():
    found = layers()
    deltas = {f"{path}.sigma": torch.randn(9) for path in found}
    values = fingerprint.probe(found, deltas)
    off = fingerprint.probe(found, {name: 1.05 * delta for name, delta in deltas.items()})
    assert fingerprint.probe_error(str(values), values) == 0
    assert fingerprint.probe_error(str(values), off) == pytest.approx(0.05, rel=1e-3)
    assert fingerprint.probe_error("[0.0]", [0.0]) == 0
    for recorded in ("", "{", "[1.0]", f"[{math.nan}]"):
        assert fingerprint.probe_error(recorded, values) == math.inf
