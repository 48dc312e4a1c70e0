"""What a training minimises."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import objective
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.captions import Captions
from vf_dreambooth.families.stable_diffusion import StableDiffusion, StableDiffusionDenoiser
from vf_dreambooth.objective import combine, drift, per_sample_loss
from vf_dreambooth.pipeline import adapted_models
from vf_training.runs import RunFolder


@given(st.lists(st.tuples(st.floats(0, 9), st.booleans()), min_size=1, max_size=12), st.randoms(), st.floats(0, 2))
def test_the_loss_does_not_depend_on_the_order_of_the_batch(samples, random, weight):
    def loss(pairs):
        losses, flags = zip(*pairs, strict=True)
        return combine(torch.tensor(losses, dtype=torch.float64), torch.tensor(flags), weight)[0]

    shuffled = random.sample(samples, len(samples))
    torch.testing.assert_close(loss(shuffled), loss(samples), atol=1e-9, rtol=1e-9)


def test_the_loss_is_two_means_and_an_empty_side_counts_nothing():
    losses = torch.tensor([1.0, 3.0, 10.0])
    total, instance, prior = combine(losses, torch.tensor([False, False, True]), 0.5)
    assert (total, instance, prior) == (7.0, 2.0, 10.0)
    assert combine(losses, torch.tensor([True] * 3), 0.5)[1] == 0
    assert combine(losses, torch.tensor([False] * 3), 0.5)[2] == 0


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def test_a_photos_own_prompt_is_used(arguments, photos, tmp_path, monkeypatch, capsys):
    (photos / "1.txt").write_text("sks dog\n on the beach\n")
    seen = []
    original = StableDiffusion.tokenize

    def tokenize(family, pipe, prompts):
        seen.extend(prompts)
        return original(family, pipe, prompts)

    monkeypatch.setattr(StableDiffusion, "tokenize", tokenize)
    main(arguments(tmp_path / "run"))
    assert seen == ["a photo of sks dog", "sks dog on the beach", "a photo of a dog"]
    out = capsys.readouterr().out
    assert "1 with a prompt of their own" in out
    assert "warning" not in out
    (photos / "1.txt").write_text("a dog on the beach")
    main(arguments(tmp_path / "other"))
    assert "1 prompts of photos do not say 'sks'" in capsys.readouterr().out


def test_the_prompt_travels_with_its_photo(arguments, photos, tmp_path):
    (photos / "2.txt").write_text("sks dog in the snow")

    pairs = set()
    original = Captions.index

    def prompt_index(self, picture, is_class, *place):
        index = original(self, picture, is_class, *place)
        pairs.update(zip(picture.tolist(), is_class.tolist(), index.tolist(), strict=True))
        return index

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captions, "index", prompt_index)
        main(arguments(tmp_path / "run"))
    assert pairs == {
        *((photo, False, 0) for photo in (0, 1)),
        (2, False, 1),
        *((image, True, 2) for image in range(3)),
    }


@given(st.floats(0.01, 3))
def test_huber_is_squared_for_small_errors_and_linear_for_large_ones(c):
    def loss(error):
        return per_sample_loss(torch.full((1, 1, 1, 1), error), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), c)

    small, large = 0.05 * c, 1e3 * c
    torch.testing.assert_close(loss(small), torch.tensor([small**2]), rtol=5e-3, atol=1e-7)
    torch.testing.assert_close(loss(large), torch.tensor([2 * c * large]), rtol=5e-3, atol=0)


def test_drift_is_the_squared_norm_of_the_weights_change():
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 9)).double()
    before = [p.clone() for p in model.parameters()]
    vf.inject(model)
    with torch.no_grad():
        for vector in vf.vector_parameters(model).values():
            vector.normal_()
    expected = drift(vf.vector_parameters(model).values())
    vf.merge(model)
    base = [getattr(layer, name) for layer in model for name in ("weight", "bias")]
    change = sum(((after - first) ** 2).sum() for after, first in zip(base, before, strict=True))
    torch.testing.assert_close(change.float(), expected, rtol=1e-5, atol=1e-5)


def test_the_bases_prediction_is_that_of_the_untouched_base(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    denoiser = StableDiffusion().denoiser(pipe)
    ids = StableDiffusion().tokenize(pipe, ["a dog", "a cat"])
    sample = (torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 900]), ids, torch.tensor([0, 1, 1]))
    with torch.no_grad():
        untouched = denoiser(*sample)
    vf.inject(adapted_models(pipe))
    for vector in vf.vector_parameters(denoiser).values():
        vector.data.normal_()
    found = objective.base_prediction(denoiser, *sample)
    torch.testing.assert_close(found, untouched, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad
    with torch.no_grad():
        assert not torch.allclose(denoiser(*sample), untouched, atol=1e-2)


def test_the_bases_prediction_holds_the_class_and_needs_no_images(arguments, tmp_path):
    losses = {}
    for weight in (0, 3):
        flags = ("--prior", "base_prediction", "--prior_loss_weight", weight, "--max_train_steps", 12)
        main(arguments(tmp_path / f"{weight}", *flags, "--no-avf"))
        losses[weight] = [entry["prior_loss"] for entry in RunFolder(tmp_path / f"{weight}").read_log()]
    assert losses[0][0] == pytest.approx(0, abs=1e-8)  # before the first update the base is what is trained
    assert sum(losses[3][6:]) < 0.8 * sum(losses[0][6:])
    assert not (tmp_path / "class_images").exists()


def test_a_frozen_text_encoder_encodes_each_prompt_once(arguments, tmp_path, monkeypatch):
    encoded, original = [], StableDiffusionDenoiser.encode

    def encode(self, prompt_ids):
        encoded.append(len(prompt_ids))
        return original(self, prompt_ids)

    flags = ("--no-train_text_encoder", "--max_train_steps", 4)
    monkeypatch.setattr(StableDiffusionDenoiser, "encode", encode)
    main(arguments(tmp_path / "kept", *flags))
    assert encoded == [2]  # the photos' prompt and the class's
    monkeypatch.setattr(objective.Objective, "keep_text", lambda *_: None)
    main(arguments(tmp_path / "anew", *flags))
    assert encoded == [2, *[2] * 4]
    for name, vector in vectors(tmp_path / "kept").items():
        torch.testing.assert_close(vector, vectors(tmp_path / "anew")[name], rtol=1e-4, atol=1e-6)


def test_a_step_encodes_the_prompts_of_its_own_samples(arguments, photos, tmp_path, monkeypatch):
    for index in range(3):
        (photos / f"{index}.txt").write_text(f"sks dog number {index}")
    encoded, original = [], StableDiffusionDenoiser.encode

    def encode(self, prompt_ids):
        encoded.append(len(prompt_ids))
        return original(self, prompt_ids)

    monkeypatch.setattr(StableDiffusionDenoiser, "encode", encode)
    main(arguments(tmp_path / "run"))  # two photos a step
    assert set(encoded) <= {2, 3}


def test_drift_needs_no_class_images_and_holds_the_vectors_back(arguments, tmp_path):
    norms = []
    for weight in (0, 100):
        main(arguments(tmp_path / f"{weight}", "--prior", "drift", "--drift_weight", weight, "--max_train_steps", 8))
        norms.append(float(drift(vectors(tmp_path / f"{weight}").values())))
    assert norms[1] < 0.5 * norms[0]
    assert not (tmp_path / "class_images").exists()
    entry = RunFolder(tmp_path / "0").read_log()[-1]
    assert entry["prior_loss"] > 0
    assert entry["loss"] == pytest.approx(entry["instance_loss"])
