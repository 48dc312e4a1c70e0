"""Changes of parameters: added, taken away bit for bit, refused where they do not fit; and what a base's hash sees."""

import pytest
import torch

from vectorfit import VectorFitError, container
from vf_training import methods
from vf_training.methods.change_file import BASELINE, add, fitting, set_values

NAME = "layer.0.output.dense.weight"


def test_an_added_change_is_scaled_and_taken_away_bit_for_bit(old):
    model, change = old.Model().half(), torch.randn(8, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    undo = add(model, {NAME: change}, 0.5)
    torch.testing.assert_close(model.get_parameter(NAME), before[NAME] + (0.5 * change.half()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name != NAME)
    undo()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_names_are_canonical_and_of_several_models(old):
    models = {"unet": old.Model(), "text_encoder": torch.nn.ModuleDict({"text_model": old.Model()})}
    names = {f"unet.{NAME}": (8, 12), f"text_encoder.{NAME}": (8, 12)}
    found = fitting(models, names)
    assert found[f"text_encoder.{NAME}"] is models["text_encoder"]["text_model"].get_parameter(NAME)
    set_values(found, {f"unet.{NAME}": torch.ones(8, 12)})
    assert models["unet"].get_parameter(NAME).eq(1).all()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("layer.7.weight", (1,), r"the model has no layer\.7\.weight \(1 such names\)"),
        (NAME, (12, 8), r"has shape \(12, 8\) in the file, expected \(8, 12\)"),
    ],
)
def test_a_change_that_does_not_fit_changes_nothing(old, name, shape, message):
    model = old.Model()
    good = {"classifier.bias": torch.ones(3), name: torch.ones(shape)}
    with pytest.raises(VectorFitError, match=message):
        add(model, good, 1.0)
    assert torch.equal(model.classifier.bias, old.Model().classifier.bias)


@pytest.mark.parametrize(("method", "whole_base"), [("lora", False), ("houlsby", True), ("full", True)])
def test_a_file_belongs_to_the_weights_that_it_changes_or_to_the_whole_base(old, method, whole_base):
    layers, technique = {"layer.0.attention.query"}, methods.find(method).technique

    def base_sha256(changed=None):
        model = old.Model()
        if changed:
            with torch.no_grad():
                model.get_parameter(changed)[0] += 1
        return technique.base_sha256({"": model}, layers, ("classifier",))

    own = base_sha256()
    assert base_sha256("layer.0.attention.query.weight") != own
    assert base_sha256("layer.0.attention.query.bias") != own
    assert (base_sha256("layer.1.output.dense.weight") != own) == whole_base
    assert base_sha256("classifier.weight") == own  # a head is no part of the base


@pytest.mark.parametrize("method", ["lora", "pfeiffer", "full", "head"])
def test_a_file_names_its_method_its_base_and_its_heads(old, tmp_path, method):
    trained = methods.put_in(method, old.Model(), methods.Options(heads=old.HEAD))
    path = tmp_path / "file.safetensors"
    methods.save(trained, path, base_model="test", base_revision="abc", metadata={"vectorfit.more": "kept"})
    tensors, metadata = container.read(path)
    container.require_untouched(path, tensors, metadata)
    assert metadata[BASELINE] == method
    assert (metadata["vectorfit.base_model"], metadata["vectorfit.base_revision"]) == ("test", "abc")
    assert metadata["vectorfit.more"] == "kept"
    assert metadata["vectorfit.modules_to_save"] == '["classifier"]'
    assert {name for name in tensors if name.startswith("classifier")} == {"classifier.weight", "classifier.bias"}


def test_a_head_is_put_back_when_the_file_is_taken_away(old, tmp_path):
    trained = methods.put_in("head", old.Model(), methods.Options(heads=old.HEAD))
    old.train(trained.parameters)
    methods.save(trained, tmp_path / "file", base_model="test")
    model = old.Model()
    methods.load(model, tmp_path / "file")
    assert torch.equal(model.classifier.weight, trained.models[""].classifier.weight)
    assert not torch.equal(model.classifier.weight, old.Model().classifier.weight)
    methods.restore(model)
    assert torch.equal(model.classifier.weight, old.Model().classifier.weight)
