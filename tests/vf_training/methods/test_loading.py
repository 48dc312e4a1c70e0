"""Files of every method: written and loaded, as today and as 0.1.0 wrote them; refused where they do not belong."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vectorfit as vf
from vectorfit import VectorFitError, container
from vf_training import methods

DATA = Path(__file__).with_name("data")
OLD = sorted(path.name.removesuffix("-0.1.0.safetensors") for path in DATA.glob("*-0.1.0.safetensors"))
OLD.remove("outputs")
INPUT = torch.linspace(-1, 1, 40).reshape(5, 8)


def save(old, name, path, heads=True, **options):
    """A file of a method on the small model, and what the trained model answers."""
    model = old.Model()
    options = methods.Options(heads=old.HEAD if heads else (), total_steps=8, **options)
    trained = methods.put_in(name, model, options)
    old.train(trained.parameters)
    methods.save(trained, path, base_model="test")
    inner = trained.wrapped[""]
    return (inner.base_model.model if hasattr(inner, "base_model") else inner).eval()(INPUT).detach()


# Some weights of the small model have singular values of 0. Their directions are other ones with other linear algebra,
# so what these two answered where they were written is not what they answer everywhere.
ON_FACTORS = ("task-vectorfit", "task-svft")


@torch.no_grad()
def composed(old, name, loaded):
    """What the base answers with the file's numbers, added to its weights one after the other."""
    plain, numbers = old.Model(), load_file(DATA / f"{name}-0.1.0.safetensors")
    for key, value in numbers.items():
        path, _, kind = key.rpartition(".")
        layer = plain.get_submodule(path)
        if kind == "sigma":
            adapted = loaded.get_submodule(path)
            M = torch.diag(value) if adapted.positions is None else torch.zeros(len(adapted.sigma), len(adapted.sigma))
            if adapted.positions is not None:
                M[adapted.positions[0], adapted.positions[1]] = value
            layer.weight += adapted.U @ M @ adapted.Vh
        elif path == "classifier":
            getattr(layer, kind).copy_(value)
        else:
            layer.bias += value
    return plain(INPUT)


@pytest.mark.parametrize("name", OLD)
def test_files_of_0_1_0_load(old, name):
    model = {"unet": old.Model()} if name.startswith("baseline") else old.Model()
    plain = model["unet"] if isinstance(model, dict) else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        methods.load(model, DATA / f"{name}-0.1.0.safetensors")
    outputs = load_file(DATA / "outputs-0.1.0.safetensors")
    tolerance = 2e-3 if name.endswith("full") else 1e-5  # whose change is kept in float16
    expected = composed(old, name, plain) if name in ON_FACTORS else outputs[name]
    torch.testing.assert_close(plain(INPUT).detach(), expected, atol=tolerance, rtol=tolerance)
    methods.restore(model)
    assert torch.equal(plain(INPUT), old.Model()(INPUT))
    assert not (outputs[name] - outputs["base"]).abs().max() < 0.1


def test_every_kind_of_old_file_is_kept():
    assert {name.partition("-")[2] for name in OLD if name.startswith("task")} >= {"lora", "adalora", "full", "head"}
    assert [name for name in OLD if name.startswith("baseline")] == ["baseline-full", "baseline-lora"]


def test_an_old_file_of_a_task_warns_that_its_base_cannot_be_checked(old):
    with pytest.warns(UserWarning, match="wrote no hash of its base"):
        methods.load(old.Model(), DATA / "task-lora-0.1.0.safetensors")


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_loaded_file_answers_as_the_trained_model(old, tmp_path, name):
    expected = save(old, name, tmp_path / "file.safetensors")
    model, base = old.Model(), old.Model()(INPUT)
    assert (expected - base).abs().max() > 1e-2
    methods.load(model, tmp_path / "file.safetensors")
    tolerance = 2e-3 if name == "full" else 1e-5
    torch.testing.assert_close(model(INPUT), expected, atol=tolerance, rtol=tolerance)
    metadata = vf.read_metadata(tmp_path / "file.safetensors")
    assert methods.holds_vectors(metadata) == methods.find(name).trains_vectors
    methods.load(model, tmp_path / "file.safetensors", strength=0.5)  # in place of what was loaded, not on top
    half = model(INPUT)
    methods.load(model, tmp_path / "file.safetensors")
    torch.testing.assert_close(model(INPUT), expected, atol=tolerance, rtol=tolerance)
    assert name == "head" or not torch.equal(half, model(INPUT))
    methods.restore(model)
    methods.restore(model)
    assert torch.equal(model(INPUT), base)
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in old.Model().named_parameters()]


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_copy_of_a_changed_model_is_restored_on_its_own(old, tmp_path, name):
    save(old, name, tmp_path / "file.safetensors")
    model, base = old.Model(), old.Model()(INPUT)
    methods.load(model, tmp_path / "file.safetensors")
    changed, twin = model(INPUT), copy.deepcopy(model)
    assert torch.equal(twin(INPUT), changed)
    methods.restore(twin)
    assert torch.equal(twin(INPUT), base)
    assert torch.equal(model(INPUT), changed)
    methods.restore(model)
    assert torch.equal(model(INPUT), base)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "head"])
def test_restoring_leaves_nothing_on_the_modules(old, tmp_path, name):
    save(old, name, tmp_path / "file.safetensors", heads=False)
    model = old.Model()
    before = {path: set(vars(module)) for path, module in model.named_modules()}
    methods.load(model, tmp_path / "file.safetensors")
    methods.restore(model)
    assert {path: set(vars(module)) for path, module in model.named_modules()} == before


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "head"])
def test_strength_0_is_the_base_bit_for_bit(old, tmp_path, name):
    save(old, name, tmp_path / "file.safetensors", heads=False)
    model = old.Model()
    methods.load(model, tmp_path / "file.safetensors", strength=0.0)
    assert torch.equal(model.eval()(INPUT), old.Model()(INPUT))


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "head"])
def test_equal_trainings_give_equal_bytes_and_name_their_method(old, tmp_path, name):
    for file in ("one", "two"):
        save(old, name, tmp_path / file, heads=False, seed=3)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert methods.name_of_method(vf.read_metadata(tmp_path / "one")) == name


@pytest.mark.parametrize("name", ["lora", "adalora", "houlsby", "full", "head", "sigma"])
def test_files_are_held_to_their_base_and_their_contents(old, tmp_path, name):
    path = tmp_path / "file.safetensors"
    save(old, name, path)
    other = old.Model()
    with torch.no_grad():
        other.get_parameter("layer.0.attention.query.weight").mul_(2)
    before = other(INPUT)
    with pytest.raises(VectorFitError, match="made for"):
        methods.load(other, path)
    assert torch.equal(other(INPUT), before)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(VectorFitError, match="not those it was written with"):
        methods.load(old.Model(), path)
    path.write_bytes(bytes(data[:-5]))
    with pytest.raises(VectorFitError, match="not a whole safetensors file"):
        methods.load(old.Model(), path)


def test_files_that_are_not_ours_and_models_of_another_shape(old, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(VectorFitError, match="not one of VectorFit's"):
        methods.load(old.Model(), tmp_path / "foreign.safetensors")
    smaller = old.Model()
    del smaller.layer[1]
    with (
        pytest.raises(VectorFitError, match=r"task-lora.*the model has no layer\.1"),
        pytest.warns(UserWarning, match="no hash"),
    ):
        methods.load(smaller, DATA / "task-lora-0.1.0.safetensors")
    assert torch.equal(smaller.layer[0](INPUT), old.Model().layer[0](INPUT))


def test_the_core_refuses_a_file_of_another_method_and_says_what_loads_it(old, tmp_path):
    save(old, "lora", tmp_path / "file.safetensors")
    with pytest.raises(VectorFitError, match=r"a file of lora.*vf_training\.methods"):
        vf.load_vectors(old.Model(), tmp_path / "file.safetensors")


def test_what_is_not_finite_is_not_written(old, tmp_path):
    trained = methods.put_in("lora", old.Model())
    with torch.no_grad():
        next(iter(trained.parameters.values())).fill_(torch.nan)
    with pytest.raises(VectorFitError, match="NaN or infinity"):
        methods.save(trained, tmp_path / "file.safetensors", base_model="test")
    assert not (tmp_path / "file.safetensors").exists()


def test_a_conv1d_is_changed_the_right_way_round(tmp_path):
    from transformers.pytorch_utils import Conv1D

    def model():
        torch.manual_seed(1)
        return torch.nn.Sequential(Conv1D(8, 8), torch.nn.GELU())

    trained = methods.put_in("lora", model())
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.normal_()
    methods.save(trained, tmp_path / "file.safetensors", base_model="test")
    plain = model()
    methods.load(plain, tmp_path / "file.safetensors")
    torch.testing.assert_close(plain(INPUT), trained.models[""](INPUT), atol=1e-5, rtol=1e-5)


def test_a_file_of_a_method_of_a_later_version_is_refused_with_its_name(old, tmp_path):
    path = tmp_path / "file.safetensors"
    save(old, "lora", path)
    tensors, metadata = container.read(path)
    save_file(tensors, path, {**metadata, "vectorfit.baseline": "dora"})
    with pytest.raises(VectorFitError, match="'dora', which a newer vectorfit knows"):
        methods.load(old.Model(), path)


def test_the_method_is_named_by_old_subject_files_too():
    assert methods.name_of_method({"vectorfit.training": '{"method": "sigma"}'}) == "sigma"
    assert methods.name_of_method({"vectorfit.training": "[]"}) == "vectorfit"
    assert methods.name_of_method({}) == "vectorfit"
    with pytest.raises(VectorFitError, match="expected a name"):
        methods.name_of_method({"vectorfit.training": '{"method": ["x"]}'})
