"""Coded subject files load wherever others do."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit.coded_file import save_coded
from vectorfit.container import read, read_metadata


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 200))


@pytest.fixture
def subject(tmp_path):
    model = net()
    vf.inject(model)
    for number, vector in enumerate(vf.vector_parameters(model).values()):
        nn.init.normal_(vector, std=0.1 + number)
    metadata = {"modelspec.thumbnail": "x" * 5000, "modelspec.title": "sks dog"}
    vf.save_vectors(model, tmp_path / "dog.safetensors", base_model="net", metadata=metadata)
    return tmp_path / "dog.safetensors"


@pytest.mark.parametrize(("most_bytes", "error"), [(100_000, 0.01), (1800, 0.5)])
def test_it_loads_as_a_subject_file(subject, tmp_path, most_bytes, error):
    coded = save_coded(net(), subject, tmp_path / "coded.safetensors", most_bytes=most_bytes)
    assert (tmp_path / "coded.safetensors").stat().st_size <= min(most_bytes, subject.stat().st_size / 2)
    assert coded.error < error
    model, original = net(), net()
    metadata = vf.load_vectors(model, tmp_path / "coded.safetensors")
    vf.load_vectors(original, subject)
    assert metadata["modelspec.title"] == "sks dog"
    assert read_metadata(tmp_path / "coded.safetensors")["vectorfit.format_version"] == "2"
    for name, vector in vf.vector_parameters(model).items():
        exact = vf.vector_parameters(original)[name]
        assert (vector - exact).abs().max() <= coded.scales[name] / 2 * (1 + 1e-5)
        assert not torch.equal(vector, exact)
    with vf.SubjectBank(net(), {"dog": tmp_path / "coded.safetensors"}).rows(["dog"]):
        pass


def test_equal_inputs_give_equal_bytes_and_a_strength_scales(subject, tmp_path):
    for name, strength in (("a", 1.0), ("b", 1.0), ("half", 0.5)):
        save_coded(net(), subject, tmp_path / name, strength=strength)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    whole, half = read(tmp_path / "a")[0], read(tmp_path / "half")[0]
    for name, vector in whole.items():
        torch.testing.assert_close(half[name], 0.5 * vector)


def test_it_belongs_to_its_base_and_says_when_it_is_damaged(subject, tmp_path):
    path = tmp_path / "coded.safetensors"
    save_coded(net(), subject, path)
    with pytest.raises(vf.VectorFitError, match="made for base weights with SHA-256"):
        vf.load_vectors(net(seed=3), path)
    near = net()
    near[0].weight.data += 1e-6 * torch.randn(64, 64)
    with pytest.warns(UserWarning, match="its change comes out"):
        vf.load_vectors(near, path)  # the probe is of the coded deltas
    data = bytearray(path.read_bytes())
    data[-30] ^= 255
    path.write_bytes(data)
    with pytest.raises(vf.VectorFitError, match=r"not a whole safetensors file|not those it was written with"):
        vf.load_vectors(net(), path)


def test_modules_trained_whole_are_refused(tmp_path):
    model = net()
    vf.inject(model, vf.VectorFitConfig(target_modules=("0",), modules_to_save=("2",)))
    vf.save_vectors(model, tmp_path / "head.safetensors", base_model="net")
    with pytest.raises(vf.VectorFitError, match="brings 2 whole, which is not coded"):
        save_coded(net(), tmp_path / "head.safetensors", tmp_path / "coded.safetensors")
