"""LoRA and AdaLoRA through PEFT: the layers, the file's equation, the budget."""

import pytest
import torch

import vectorfit as vf
from vf_training import methods
from vf_training.methods.lora import AdaLora, Lora

INPUT = torch.linspace(-1, 1, 40).reshape(5, 8)
LAYERS = 8  # of the small model: two blocks of four


def put_in(old, name, **options):
    return methods.put_in(name, old.Model(), methods.Options(**{"total_steps": 40, **options}))


def inner(trained):
    return trained.wrapped[""].base_model.model.eval()


@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_it_takes_the_layers_that_vectorfit_adapts(old, name):
    trained = put_in(old, name, heads=old.HEAD)
    contents = trained.method.technique.contents(trained)
    paths = {layer.path for layer in vf.plan(old.Model(), vf.VectorFitConfig(modules_to_save=old.HEAD)).layers}
    assert {key.rpartition(".")[0] for key in contents} == paths
    factors = {"lora_A", "lora_B"} | ({"lora_E"} if name == "adalora" else set())
    assert {key.rpartition(".")[2] for key in contents} == factors


@pytest.mark.parametrize("size", [1, 3])
def test_the_size_is_the_rank(old, size):
    shapes = {key: tuple(value.shape) for key, value in Lora().contents(put_in(old, "lora", size=size)).items()}
    assert shapes["layer.0.intermediate.dense.lora_A"] == (size, 8)
    assert shapes["layer.0.intermediate.dense.lora_B"] == (12, size)
    assert sum(1 for key in shapes if key.endswith("lora_A")) == LAYERS


@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_it_begins_as_the_base_and_what_the_file_says_is_what_it_computes(old, name):
    trained = put_in(old, name)
    torch.testing.assert_close(inner(trained)(INPUT), old.Model()(INPUT))
    old.train(trained.parameters)
    expected = inner(trained)(INPUT)
    contents = trained.method.technique.contents(trained)
    plain = old.Model()
    undo = trained.method.technique.apply(plain, contents, 1.0)
    torch.testing.assert_close(plain(INPUT), expected, atol=1e-5, rtol=1e-5)
    path = "layer.0.intermediate.dense"
    A, B = contents[f"{path}.lora_A"], contents[f"{path}.lora_B"]
    change = B @ torch.diag(contents[f"{path}.lora_E"].flatten()) @ A if name == "adalora" else B @ A
    base = old.Model().get_parameter(f"{path}.weight")
    torch.testing.assert_close(plain.get_parameter(f"{path}.weight"), base + change)
    undo()
    assert torch.equal(plain(INPUT), old.Model()(INPUT))


def test_the_budget_is_shared_out_by_the_weights_it_was_set_for(old):
    for budget, of, ranks in ((144, 72, 2 * LAYERS), (36, 72, LAYERS / 2), (1, 72, 1)):
        trained = put_in(old, "adalora", size=budget, adapted_matrices=of)
        assert trained.wrapped[""].base_model.rankallocator.target_bgt == ranks


def test_a_checkpoint_of_adalora_carries_importances_and_ranks(old):
    def train(trained, steps):
        optimizer = torch.optim.SGD([p for p in trained.wrapped[""].parameters() if p.requires_grad], lr=0.1)
        for step in steps:
            trained.wrapped[""](INPUT * step).square().mean().backward()
            optimizer.step()
            trained.method.technique.after_update(trained, step)
            optimizer.zero_grad()
        return trained

    technique = AdaLora()
    whole = train(put_in(old, "adalora"), range(1, 13))
    first, second = train(put_in(old, "adalora"), range(1, 9)), put_in(old, "adalora")
    with torch.no_grad():
        for name, parameter in second.parameters.items():
            parameter.copy_(first.parameters[name])
    state = technique.state(first)
    assert state["sensitivity"]
    technique.load_state(second, state)
    again = train(second, range(9, 13))
    for name, value in technique.contents(whole).items():
        assert torch.equal(technique.contents(again)[name], value)
    for kind in ("sensitivity", "uncertainty"):
        resumed = technique.state(again)[kind]
        assert all(torch.equal(resumed[name], value) for name, value in technique.state(whole)[kind].items())
    assert technique.state(again)["ranks"] == technique.state(whole)["ranks"]
