"""Full fine-tuning and the head alone: what they train, and the change that their files hold."""

import pytest
import torch

from vectorfit import VectorFitError
from vf_training import methods
from vf_training.methods.whole import FullFineTuning, HeadAlone


def test_full_fine_tuning_trains_everything_and_its_file_holds_the_change(old):
    trained = methods.put_in("full", old.Model(), methods.Options(heads=old.HEAD))
    assert trained.parameters.keys() == dict(old.Model().named_parameters()).keys()
    technique = FullFineTuning()
    assert all(not change.any() for change in technique.contents(trained).values())
    old.train(trained.parameters)
    contents, base = technique.contents(trained), old.Model()
    assert not any(trained.in_head(name) for name in contents)
    assert {change.dtype for change in contents.values()} == {torch.float16}
    for name, change in contents.items():
        exact = trained.parameters[name].detach() - base.get_parameter(name)
        torch.testing.assert_close(change.float(), exact, atol=2e-4, rtol=1e-3)


def test_half_the_strength_is_half_the_change(old):
    trained = methods.put_in("full", old.Model())
    old.train(trained.parameters)
    contents, model = FullFineTuning().contents(trained), old.Model()
    FullFineTuning().apply(model, contents, 0.5)
    name = "layer.1.output.dense.weight"
    half = old.Model().get_parameter(name) + 0.5 * contents[name].float()
    torch.testing.assert_close(model.get_parameter(name), half)


def test_the_head_alone_is_all_that_moves(old):
    trained = methods.put_in("head", old.Model(), methods.Options(heads=old.HEAD))
    assert set(trained.parameters) == {"classifier.weight", "classifier.bias"}
    assert HeadAlone().contents(trained) == {}
    model = trained.models[""]
    model(torch.randn(5, 8)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trained.parameters)


def test_a_task_without_a_head_leaves_nothing_to_train(old):
    with pytest.raises(VectorFitError, match="head trains nothing"):
        methods.put_in("head", old.Model())
