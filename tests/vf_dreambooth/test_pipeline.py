import json

import numpy as np
import pytest
import torch
from PIL import Image

import vectorfit as vf
from vf_dreambooth import generate
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.pipeline import Sampling, adapted_models, load_pipeline, previewing, sample, set_subjects

SAMPLING = Sampling(num_inference_steps=2, guidance_scale=3.0, resolution=16)


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_strength_zero_is_the_base_and_one_is_not(tiny_base, subject):
    base = resolve(str(tiny_base))
    pictures = [
        pixels(sample(load_pipeline(base, subjects, device="cpu"), ["a dog"], [3], SAMPLING))
        for subjects in ([], [(subject, 0.0)], [(subject, 1.0)])
    ]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != pictures[2]).any()


def test_switching_back_gives_the_base_bit_for_bit(tiny_base, subject):
    pipe = load_pipeline(resolve(str(tiny_base)), device="cpu")
    before = pixels(sample(pipe, ["a dog"], [3], SAMPLING))
    set_subjects(pipe, [(subject, 1.0)])
    set_subjects(pipe, [])
    assert (pixels(sample(pipe, ["a dog"], [3], SAMPLING)) == before).all()


def test_a_seed_gives_its_picture_whatever_the_batch(tiny_base):
    pipe = load_pipeline(resolve(str(tiny_base)), device="cpu")
    together = pixels(sample(pipe, ["a dog"] * 3, [5, 6, 7], SAMPLING))
    alone = pixels(sample(pipe, ["a dog"], [6], SAMPLING))
    assert abs(together[1] - alone[0]).max() <= 1


def test_previews_leave_modes_weights_and_randomness_alone(tiny_base):
    pipe = load(resolve(str(tiny_base)))
    models = adapted_models(pipe)
    vf.inject(models)
    pipe.unet.train()
    pipe.text_encoder.eval()
    state = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    random = torch.get_rng_state()
    with previewing(pipe):
        assert not pipe.unet.training
        sample(pipe, ["a dog"], [0], SAMPLING)
    assert pipe.unet.training
    assert not pipe.text_encoder.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in pipe.unet.state_dict().items())


def test_generate_writes_pictures_that_say_how_they_were_made(subject, tiny_base, tmp_path, capsys):
    flags = ["--vectors", str(subject), "--base_model", str(tiny_base), "--out", str(tmp_path / "out"), "--num", "2"]
    flags += [
        "--seed",
        "7",
        "--num_inference_steps",
        "2",
        "--prompt",
        "a dog",
        "--prompt",
        "a sks dog / snow",
        "--compare",
    ]
    from vf_dreambooth import base_models

    preset = base_models.Preset(16, 1e-2, 4, 3, 2, 2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base_models.PRESETS, base_models.SD14, preset)
        generate.main(flags)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        *("00-a-dog-7.png", "00-a-dog-8.png", "01-a-sks-dog-snow-7.png", "01-a-sks-dog-snow-8.png"),
        *("comparison.png", "grid.png"),
    ]
    parameters = json.loads(Image.open(tmp_path / "out" / "00-a-dog-8.png").text["parameters"])
    assert (parameters["prompt"], parameters["seed"], parameters["strength"]) == ("a dog", 8, 1.0)
    assert "grid.png" in capsys.readouterr().out


def test_a_subject_on_the_wrong_base_is_refused(subject, tmp_path):
    with pytest.raises(vf.VectorFitError, match="trained on"):
        load_pipeline(resolve("starter"), [(subject, 1.0)])
