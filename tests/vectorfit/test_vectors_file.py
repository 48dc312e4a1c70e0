import json
import struct
import warnings
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vectorfit as vf
from vectorfit import factored_weight, fingerprint, vectors_file
from vectorfit.fingerprint import by_canonical_path, probe, probe_error
from vectorfit.record import injection_of
from vectorfit.vectors_file import scale_vectors


def make(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4))


def train(model: nn.Module, seed: int = 1) -> None:
    vf.inject(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.copy_(torch.randn(vector.shape, generator=generator))


@pytest.fixture
def saved(tmp_path):
    model = make().eval()
    train(model)
    vf.save_vectors(model, tmp_path / "a.safetensors", base_model="toy", metadata={"modelspec.title": "a"})
    return model, tmp_path / "a.safetensors"


def test_round_trip_with_trained_values(saved):
    model, path = saved
    fresh, x = make().eval(), torch.randn(3, 6)
    metadata = vf.load_vectors(fresh, path)
    assert torch.equal(fresh(x), model(x))
    assert metadata["vectorfit.base_model"] == "toy"
    assert metadata["modelspec.title"] == "a"
    assert vf.read_metadata(path) == metadata


def test_the_file_holds_float32_deltas_under_canonical_names(saved):
    _, path = saved
    vectors = load_file(path)
    assert set(vectors) == {"0.sigma", "0.bias", "2.sigma", "2.bias"}
    assert all(v.dtype == torch.float32 for v in vectors.values())


def test_the_text_model_level_is_left_out_and_found_again(tmp_path):
    flat = nn.ModuleDict({"layers": make()})
    nested = nn.ModuleDict({"text_model": nn.ModuleDict({"layers": make()})})
    train(flat)
    vf.save_vectors({"text_encoder": flat}, tmp_path / "t.safetensors", base_model="toy")
    vf.load_vectors({"text_encoder": nested}, tmp_path / "t.safetensors")
    x = torch.randn(2, 6)
    with torch.no_grad():
        assert torch.equal(nested["text_model"]["layers"].eval()(x), flat["layers"].eval()(x))


def test_equal_trainings_give_equal_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        model = make()
        train(model)
        path = tmp_path / name
        vf.save_vectors(model, path, base_model="toy", metadata={f"key{i}": str(i) for i in range(20)})
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    (length,) = struct.unpack("<Q", contents[0][:8])
    assert list(json.loads(contents[0][8 : 8 + length])["__metadata__"]) == sorted(vf.read_metadata(tmp_path / "a"))


def test_subjects_add_up_with_their_strengths_and_switching_does_not_drift(saved, tmp_path):
    model, first = saved
    other = make()
    train(other, seed=2)
    second = tmp_path / "b.safetensors"
    vf.save_vectors(other, second, base_model="toy")
    served, x = make().eval(), torch.randn(3, 6)
    base = served(x)
    vf.set_subjects(served, [(first, 0.5), (second, 2.0)])
    vf.merge(served)
    for name, vector in vf.vector_parameters(served).items():
        expected = 0.5 * vf.vector_parameters(model)[name] + 2.0 * vf.vector_parameters(other)[name]
        torch.testing.assert_close(vector, expected)
    vf.set_subjects(served, [(first, 1.0)])
    once = served(x)
    for _ in range(50):
        vf.set_subjects(served, [(second, 1.0)])
        vf.set_subjects(served, [(first, 1.0)])
    assert torch.equal(served(x), once)
    vf.set_subjects(served, [])
    assert torch.equal(served(x), base)


def test_a_subject_with_fewer_layers_leaves_the_others_at_the_base(saved, tmp_path):
    _, whole = saved
    narrow = make()
    vf.inject(narrow, vf.VectorFitConfig(target_modules=["2"]))
    with torch.no_grad():
        vf.vector_parameters(narrow)["2.sigma"].fill_(1.0)
    vf.save_vectors(narrow, tmp_path / "n.safetensors", base_model="toy")
    served, x = make().eval(), torch.randn(3, 6)
    vf.set_subjects(served, [(tmp_path / "n.safetensors", 1.0)])
    torch.testing.assert_close(served(x), narrow.eval()(x))
    vf.set_subjects(served, [(whole, 1.0)])
    vf.set_subjects(served, [(tmp_path / "n.safetensors", 1.0)])
    torch.testing.assert_close(served(x), narrow(x))


def other_weights():
    return make(seed=5)


def other_shape():
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3))


def other_layers():
    return nn.Sequential(nn.GELU(), nn.GELU(), nn.Linear(10, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (other_weights, r"SHA-256.*of another model"),
        (other_shape, r"shape \(4,\), expected \(3,\)"),
        (other_layers, "model lacks"),
    ],
)
def test_a_wrong_base_is_refused_and_left_as_it_was(saved, build, message):
    _, path = saved
    model = build()
    with pytest.raises(vf.VectorFitError, match=message) as caught:
        vf.load_vectors(model, path)
    assert str(path) in str(caught.value)
    assert "'toy'" in str(caught.value)
    assert not vf.vector_parameters(model)
    assert all(p.requires_grad for p in model.parameters())


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path):
    path.write_bytes(b"")


def pickled(path):
    torch.save({"0.sigma": torch.ones(3)}, path)


def foreign(path):
    save_file({"0.sigma": torch.ones(6)}, path)


def one_lost(path):
    vectors, metadata = load_file(path), vf.read_metadata(path)
    del vectors["0.bias"]
    save_file(vectors, path, metadata)


def one_extra(path):
    vectors, metadata = load_file(path), vf.read_metadata(path)
    save_file({**vectors, "9.sigma": torch.ones(3)}, path, metadata)


def not_finite(path):
    vectors, metadata = load_file(path), vf.read_metadata(path)
    vectors["0.bias"][0] = float("nan")
    save_file(vectors, path, metadata)


def tampered(path):
    vectors, metadata = load_file(path), vf.read_metadata(path)
    vectors["0.bias"][0] += 1e-6
    save_file(vectors, path, metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "not a whole safetensors file"),
        (emptied, "not a whole safetensors file"),
        (pickled, "not a whole safetensors file"),
        (foreign, "not one of VectorFit's"),
        (one_lost, "holds 3 vectors, expected 4"),
        (one_extra, "9"),
        (not_finite, "0.bias holds NaN"),
        (tampered, "not those it was written with"),
    ],
)
def test_damaged_files_are_refused(saved, damage, message):
    _, path = saved
    damage(path)
    model = make()
    with pytest.raises(vf.VectorFitError, match=message):
        vf.load_vectors(model, path)
    assert not vf.vector_parameters(model)


def test_a_missing_file_and_nothing_to_save_are_clear(tmp_path):
    with pytest.raises(vf.VectorFitError, match="cannot be read"):
        vf.read_metadata(tmp_path / "none.safetensors")
    with pytest.raises(vf.VectorFitError, match="no VectorFit layers"):
        vf.save_vectors(make(), tmp_path / "x.safetensors", base_model="toy")


def test_a_broken_training_does_not_replace_a_good_file(saved):
    model, path = saved
    good = path.read_bytes()
    with torch.no_grad():
        model[0].d_sigma[0] = float("inf")
    with pytest.raises(vf.VectorFitError, match="not written"):
        vf.save_vectors(model, path, base_model="toy")
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


def larger(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 32))


def true_error(canonical: nn.Module, other: nn.Module) -> float:
    """The relative error of dW of all layers of one model against another's, both with the same deltas."""
    pairs = [(canonical[i], other[i]) for i in (0, 2)]
    changes = [[(layer.U * layer.d_sigma.detach()) @ layer.Vh for layer in pair] for pair in pairs]
    lost = sum(float((a - b).square().sum()) for a, b in changes)
    return (lost / sum(float(a.square().sum()) for a, _ in changes)) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rounded_base_is_refused_with_the_error_and_taken_when_that_is_accepted(tmp_path, dtype):
    canonical, path = larger().eval(), tmp_path / "a.safetensors"
    train(canonical)
    vf.save_vectors(canonical, path, base_model="toy")
    rounded = larger().eval().to(dtype)
    with pytest.raises(vf.VectorFitError, match=r"an error of about [\d.]+%\. It was trained on 'toy'") as caught:
        vf.load_vectors(rounded, path)
    stated = float(str(caught.value).split("tolerated_error=")[1])
    with pytest.warns(UserWarning, match="its change comes out"):
        vf.load_vectors(rounded, path, tolerated_error=1.0)
    assert stated == pytest.approx(true_error(canonical, rounded), rel=0.8)


def test_a_difference_that_the_probe_finds_harmless_is_a_warning(tmp_path):
    canonical, path = larger().eval(), tmp_path / "a.safetensors"
    train(canonical)
    vf.save_vectors(canonical, path, base_model="toy")
    nearly = larger().eval()
    with torch.no_grad():
        nearly[0].weight[0, 0] += 1e-7
    with pytest.warns(UserWarning, match="SHA-256"):
        vf.load_vectors(nearly, path)
    assert true_error(canonical, nearly) < 1e-3


def test_half_precision_storage_halves_the_file_and_rounds_by_no_more_than_it_must(saved, tmp_path):
    model, path = saved
    vf.save_vectors(model, tmp_path / "half", base_model="toy", dtype=torch.float16)
    fresh = make()
    vf.load_vectors(fresh, tmp_path / "half")
    for name, vector in vf.vector_parameters(fresh).items():
        exact = vf.vector_parameters(model)[name]
        assert vector.dtype == torch.float32
        assert ((vector - exact).abs() <= 2**-11 * exact.abs() + 2**-25).all()
    sizes = [sum(v.nbytes for v in load_file(file).values()) for file in (tmp_path / "half", path)]
    assert 2 * sizes[0] == sizes[1]
    with pytest.raises(vf.VectorFitError, match=r"expected torch.float32 or torch.float16"):
        vf.save_vectors(model, tmp_path / "b", base_model="toy", dtype=torch.bfloat16)


def test_a_thousand_switches_drift_by_nothing(saved):
    _, path = saved
    served, x = make().eval(), torch.randn(3, 6)
    before = served(x)
    vf.load_vectors(served, path)
    vf.merge(served)
    once = served(x)
    for _ in range(500):
        vf.set_subjects(served, [])
        vf.merge(served)
        vf.set_subjects(served, [(path, 1.0)])
        vf.merge(served)
    assert torch.equal(served(x), once)
    vf.set_subjects(served, [])
    vf.merge(served)
    assert torch.equal(served(x), before)


def test_a_file_of_the_first_version_loads_for_ever():
    folder = Path(__file__).parent / "data"
    expected = load_file(folder / "version-1-outputs.safetensors")
    base = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4)).eval()
    base.load_state_dict({name: tensor for name, tensor in expected.items() if name[0] in "02"})
    vf.load_vectors(base, folder / "version-1.safetensors")
    torch.testing.assert_close(base(expected["x"]), expected["y"], atol=1e-6, rtol=1e-6)


def mutated(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, inserted, repeated or moved, in the header as often as in the tensors."""
    content = bytearray(data)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(random.choice((1, 1, 2, 8))):
        end = header if random.random() < 0.7 else len(content)
        place, length = random.randrange(max(1, min(end, len(content)))), random.choice((1, 1, 2, 16, 200))
        kind = random.randrange(5)
        if kind == 0:
            content[place] = random.randrange(256)
        elif kind == 1:
            del content[place : place + length]
        elif kind == 2:
            content[place:place] = random.randbytes(length)
        elif kind == 3:
            content[place:place] = content[place : place + length]
        else:
            content[place] ^= 1 << random.randrange(8)
        if not content:
            break
    return bytes(content)


def assert_refused_or_the_same(path, model, exact) -> bool:
    """A mutated file either is refused, or was mutated where nothing of the vectors or the base depends on it."""
    try:
        vf.load_vectors(model, path)
    except vf.VectorFitError:
        return True
    assert all(torch.equal(vector, exact[name]) for name, vector in vf.vector_parameters(model).items())
    return False


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_never_taken_for_whole(saved, tmp_path):
    model, path = saved
    data, random, broken = path.read_bytes(), Random(0), tmp_path / "broken.safetensors"
    exact = {name: vector.detach().clone() for name, vector in vf.vector_parameters(model).items()}
    served, refused = make(), 0
    for _ in range(10_000):
        broken.write_bytes(mutated(data, random))
        refused += assert_refused_or_the_same(broken, served, exact)
        vf.set_subjects(served, [])
    assert refused > 7_000


def test_mutated_files_are_refused(saved, tmp_path):
    model, path = saved
    data, random, broken = path.read_bytes(), Random(1), tmp_path / "broken.safetensors"
    exact = {name: vector.detach().clone() for name, vector in vf.vector_parameters(model).items()}
    served = make()
    for _ in range(300):
        broken.write_bytes(mutated(data, random))
        assert_refused_or_the_same(broken, served, exact)
        vf.set_subjects(served, [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scaled_file_is_the_file_at_that_strength(tmp_path, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    vf.inject(net)
    with torch.no_grad():
        for vector in vf.vector_parameters(net).values():
            vector.copy_(torch.randn_like(vector))
    vf.save_vectors(net, tmp_path / "whole", base_model="toy", metadata={"own": "kept"}, dtype=dtype)
    scale_vectors(tmp_path / "whole", 0.75, tmp_path / "scaled")
    assert vf.read_metadata(tmp_path / "scaled")["own"] == "kept"
    x = torch.randn(3, 6)
    vf.load_vectors(net, tmp_path / "whole", strength=0.75)
    expected = net(x)
    vf.load_vectors(net, tmp_path / "scaled")
    tolerance = 2e-3 if dtype == torch.float16 else 1e-5
    torch.testing.assert_close(net(x), expected, rtol=tolerance, atol=tolerance)
    # Its probe is its own: weights that differ by rounding are judged by it.
    layers = injection_of(net).layers
    recorded = vf.read_metadata(tmp_path / "scaled")["vectorfit.probe"]
    assert probe_error(recorded, probe(by_canonical_path(layers), load_file(tmp_path / "scaled"))) < 1e-3


def test_what_is_not_a_subject_file_is_not_scaled(tmp_path):
    net = nn.ModuleDict({"body": nn.Linear(4, 4), "classifier": nn.Linear(4, 2)})
    vf.inject(net, vf.VectorFitConfig(modules_to_save=("classifier",)))
    vf.save_vectors(net, tmp_path / "task", base_model="toy")
    with pytest.raises(vf.VectorFitError, match="holds more than vectors"):
        scale_vectors(tmp_path / "task", 0.5, tmp_path / "scaled")
    assert not (tmp_path / "scaled").exists()


def test_a_base_is_hashed_once_and_again_after_it_was_written_to(saved, monkeypatch):
    _, path = saved
    model, hashed, plain = make().eval(), [], fingerprint.matrices_sha256
    monkeypatch.setattr(fingerprint, "matrices_sha256", lambda found: hashed.append(1) or plain(found))
    for _ in range(2):
        vf.set_subjects(model, [(path, 1.0)])
        vf.merge(model)
        vf.set_subjects(model, [(path, 0.5)])
        vf.unmerge(model)
    assert len(hashed) == 1
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(vf.VectorFitError, match="trained on"):
        vf.set_subjects(model, [(path, 1.0)])
    assert len(hashed) == 2
    with torch.no_grad():
        model[0].weight.div_(2)
    vf.set_subjects(model, [(path, 1.0)])
    model.half().float()  # other bits, though nothing was written in place
    with pytest.warns(UserWarning, match="its change comes out"):
        vf.set_subjects(model, [(path, 1.0)])
    assert len(hashed) == 4


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_probes_do_not_depend_on_how_exactly_the_device_multiplies_float32(device):
    """As TensorFloat-32 on a GPU, and bfloat16 on a CPU that has it, which torch takes for float32 when told to."""
    model = nn.Sequential(nn.Linear(256, 256)).to(device)
    train(model)
    layers = {"0": model[0]}
    deltas = {"0.sigma": model[0].d_sigma.detach()}
    exact = fingerprint.probe(layers, deltas)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert fingerprint.probe(layers, deltas) == exact
    finally:
        torch.set_float32_matmul_precision(before)


def flat(seed: int = 0) -> nn.Module:
    """A model with a weight of rank 2: four of its singular values are 0, and their directions are any."""
    model = make(seed).eval()
    with torch.no_grad():
        model[0].weight[2:] = 0
    return model


def test_another_machines_directions_of_equal_singular_values_are_told(tmp_path, monkeypatch):
    model, path = flat(), tmp_path / "flat.safetensors"
    train(model)
    vf.save_vectors(model, path, base_model="toy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vf.load_vectors(flat(), path)

    def turned(weight):
        U, sigma, Vh = factors(weight)
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
        if len(weight) == 10:
            Vh[2:], U[:, 2:] = turn @ Vh[2:], U[:, 2:] @ torch.linalg.qr(torch.randn(4, 4)).Q
        return U, sigma, Vh

    factors = factored_weight.factors
    monkeypatch.setattr(factored_weight, "factors", turned)
    monkeypatch.setattr(vectors_file, "_right", set())
    with pytest.warns(UserWarning, match=r"base is the same, but the change comes out [\d.]+% off: .*each machine"):
        vf.load_vectors(flat(), path)


def test_a_file_is_probed_once_on_its_base(saved, monkeypatch):
    _, path = saved
    monkeypatch.setattr(vectors_file, "_right", set())
    probed = []
    monkeypatch.setattr(vectors_file, "probe", lambda *given: probed.append(given) or probe(*given))
    for _ in range(3):
        vf.load_vectors(make().eval(), path)
    assert len(probed) == 1
