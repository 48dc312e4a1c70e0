"""Methods that train vectors are the core, configured: the same vectors, the same file."""

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from vf_training import methods
from vf_training.methods.vectors import METHOD

OF_VECTORS = [name for name, method in methods.METHODS.items() if method.trains_vectors]


@pytest.mark.parametrize("name", OF_VECTORS)
def test_the_parameters_are_the_cores_under_their_names_in_the_file(old, tmp_path, name):
    trained = methods.put_in(name, old.Model(), methods.Options(heads=old.HEAD))
    model = trained.models[""]
    assert list(trained.parameters) == [*vf.vector_parameters(model), *vf.head_parameters(model)]
    methods.save(trained, tmp_path / "file.safetensors", base_model="test")
    assert load_file(tmp_path / "file.safetensors").keys() == trained.parameters.keys()
    metadata = vf.read_metadata(tmp_path / "file.safetensors")
    assert metadata[METHOD] == name
    assert methods.holds_vectors(metadata)


def test_what_a_task_asks_for_reaches_the_core(old):
    plain, wider = (
        methods.put_in("svft", old.Model(), methods.Options(size=size, bias=bias, heads=old.HEAD))
        for size, bias in ((1, "layers"), (3, "all"))
    )
    assert plain.plan.num_trainable < wider.plan.num_trainable
    assert plain.models[""].layer[0].output.dense.pattern.size(8) == 8 + 2 * 7
    assert wider.plan.saved == {"classifier": 3 * 8 + 3}


def test_dropout_is_on_where_the_row_says_so(old):
    layers = {
        name: methods.put_in(name, old.Model()).models[""].layer[0].output.dense for name in ("no_avf", "sigma_dropout")
    }
    assert layers["no_avf"].sigma_dropout == 0
    assert layers["sigma_dropout"].sigma_dropout == methods.find("sigma_dropout").sigma_dropout > 0


def test_a_method_of_a_users_own_metadata_keeps_it(old, tmp_path):
    trained = methods.put_in("sigma", old.Model())
    methods.save(trained, tmp_path / "file", base_model="test", base_revision="r1", metadata={"vectorfit.who": "me"})
    metadata = vf.read_metadata(tmp_path / "file")
    assert (metadata["vectorfit.who"], metadata["vectorfit.base_revision"]) == ("me", "r1")
    model = old.Model()
    methods.load(model, tmp_path / "file")
    vectors = vf.vector_parameters(model)
    assert set(trained.parameters) <= set(vectors)
    assert not any(vectors[name].any() for name in vectors.keys() - trained.parameters.keys())
    methods.restore(model)
    assert not vf.vector_parameters(model)
    assert torch.equal(model.classifier.weight, old.Model().classifier.weight)
