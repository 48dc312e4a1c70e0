"""Many subjects on one base in one batch."""

import pytest
import torch
from torch import nn

import vectorfit as vf
from vectorfit import bank as bank_module


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.attn, self.norm, self.proj = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 24)

    def forward(self, x):
        return self.proj(self.norm(torch.tanh(self.attn(x))))


def write(path, number: int, base: Net | None = None, dtype=torch.float32, **config):
    model = base or Net()
    vf.inject(model, vf.VectorFitConfig(**config))
    generator = torch.Generator().manual_seed(number)
    for vector in vf.vector_parameters(model).values():
        vector.data = torch.randn(vector.shape, generator=generator) * 0.3
    vf.save_vectors(model, path, base_model="net", dtype=dtype)
    vf.remove(model)
    return path


@pytest.fixture
def files(tmp_path):
    return {name: write(tmp_path / f"{name}.safetensors", n) for n, name in enumerate(("dog", "cat", "cup"))}


X = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def alone(files, x, *parts):
    model = Net().eval()
    vf.set_subjects(model, [(files[name], strength) for name, strength in parts])
    return model(x)


@torch.no_grad()
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("most_kept", [2**30, 0])
def test_each_sample_has_its_subject_its_mix_or_the_base(files, monkeypatch, merged, most_kept):
    monkeypatch.setattr(bank_module, "MOST_KEPT", most_kept)
    model = Net().eval()
    plain = model(X)
    bank = vf.SubjectBank(model, files)
    assert bank.names == ("dog", "cat", "cup")
    assert len(bank) == 3
    if merged:
        vf.set_subjects(model, [(files["cat"], 1.0)])
        vf.merge(model)
    before = model(X)
    mix = {"dog": 0.5, "cat": -0.25}
    rows = ["dog", None, mix, "cup", "dog", {"cat": 0.0}]
    expected = [
        *(alone(files, X, ("dog", 1.0))[0], plain[1], alone(files, X, *mix.items())[2]),
        *(alone(files, X, ("cup", 1.0))[3], alone(files, X, ("dog", 1.0))[4], plain[5]),
    ]
    for _ in range(4):
        with bank.rows(rows):
            y = model(X)
        torch.testing.assert_close(y, torch.stack(expected), atol=1e-5, rtol=1e-5)
        with bank.rows(rows):
            for _ in range(4):
                kept = model(X)
        torch.testing.assert_close(kept, torch.stack(expected), atol=1e-5, rtol=1e-5)
        assert torch.equal(y[[1, 5]], plain[[1, 5]])  # the base's rows bit for bit
        assert torch.equal(kept[[1, 5]], plain[[1, 5]])
    assert torch.equal(model(X), before)


@torch.no_grad()
def test_rows_repeat_for_guidance(files):
    model = Net().eval()
    bank = vf.SubjectBank(model, files)
    with bank.rows(["dog", "cat", None]):
        both, once = model(X), model(X[:3])
    for batch, place in ((both, 0), (both, 3), (once, 0)):
        x = X[place : place + 3]
        torch.testing.assert_close(batch[place], alone(files, x, ("dog", 1.0))[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch[place + 1], alone(files, x, ("cat", 1.0))[1], atol=1e-5, rtol=1e-5)
    with bank.rows([None] * 6):
        assert torch.equal(model(X), Net().eval()(X))


@torch.no_grad()
def test_files_of_fewer_layers_and_in_float16(files, tmp_path):
    files = files | {
        "half": write(tmp_path / "half.safetensors", 7, dtype=torch.float16),
        "few": write(tmp_path / "few.safetensors", 8, target_modules=("proj",)),
        "sigma": write(tmp_path / "sigma.safetensors", 9, variant="sigma"),
        "norms": write(tmp_path / "norms.safetensors", 10, target_modules=("attn", "norm")),
    }
    model = Net().eval()
    bank = vf.SubjectBank(model, files)
    names = ["half", "few", "sigma", "norms", "dog", "few"]
    with bank.rows(names):
        y = model(X)
    for row, name in enumerate(names):
        torch.testing.assert_close(y[row], alone(files, X, (name, 1.0))[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_wider_pattern_is_composed(tmp_path):
    wide = {"pattern": "banded", "pattern_width": 1, "variant": "sigma"}
    files = {name: write(tmp_path / f"{name}.safetensors", n, **wide) for n, name in enumerate("ab")}
    model = Net().eval()
    with vf.SubjectBank(model, files).rows(["a", "b", None, "a", "b", "b"]):
        y = model(X)
    torch.testing.assert_close(y[4], alone(files, X, ("b", 1.0))[4], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_served_models_stay_served(files):
    model = Net().eval()
    vf.set_subjects(model, [(files["dog"], 1.0)])
    vf.serve(model, "cpu", torch.bfloat16)
    before, x = model(X.bfloat16()), X.bfloat16()
    bank = vf.SubjectBank(model, files)
    with bank.rows(["dog", "cat", "cup", None, None, "dog"]):
        y = model(x)
    assert torch.equal(model(x), before)
    assert model.attn.weight.dtype == torch.bfloat16
    assert model.attn.served
    expected = alone(files, X, ("cat", 1.0))[1]
    assert (y[1].float() - expected).norm() / expected.norm() < 2e-2


def test_what_is_wrong_is_told(files, tmp_path):
    model = Net().eval()
    with pytest.raises(vf.VectorFitError, match="subjects: got none"):
        vf.SubjectBank(model, {})
    other = write(tmp_path / "other.safetensors", 0, Net(seed=5))
    with pytest.raises(vf.VectorFitError, match=r"other\.safetensors: made for base weights with SHA-256"):
        vf.SubjectBank(model, files | {"other": other})
    assert not vf.vector_parameters(model)  # nothing was changed
    whole = write(tmp_path / "whole.safetensors", 0, target_modules=("attn",), modules_to_save=("proj",))
    with pytest.raises(vf.VectorFitError, match="brings proj whole"):
        vf.SubjectBank(Net(), {"whole": whole})
    bank = vf.SubjectBank(model, files)
    for rows, message in (
        ([], "rows: got none"),
        (["dgo"], "no subject 'dgo' in the bank; nearest: dog"),
        ([{"dog": float("nan")}], "the strength of 'dog' is nan"),
        ([{"dog": "1"}], "the strength of 'dog' is '1'"),
        ([3], r"rows\[0\]: got 3, expected a name"),
    ):
        with pytest.raises(vf.VectorFitError, match=message), bank.rows(rows):
            pass
    with pytest.raises(vf.VectorFitError, match="a batch of 6 samples, expected 2"), bank.rows(["dog", None]):
        model(X)
    vf.remove(model)
    vf.inject(model)
    with pytest.raises(vf.VectorFitError, match="make a new SubjectBank"), bank.rows(["dog"]):
        pass
