"""Pictures of a subject, in a folder."""

import json

import pytest
from PIL import Image, ImageChops

from vectorfit import VectorFitError
from vf_dreambooth import families, generate
from vf_dreambooth.families.stable_diffusion import StableDiffusion


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
    preset = families.Preset(16, 1e-2, 4, 3, 2, 2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(StableDiffusion.presets, families.SD14, preset)
        generate.main(flags)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        *("00-a-dog-7.png", "00-a-dog-8.png", "01-a-sks-dog-snow-7.png", "01-a-sks-dog-snow-8.png"),
        *("comparison.png", "grid.png"),
    ]
    parameters = json.loads(Image.open(tmp_path / "out" / "00-a-dog-8.png").text["parameters"])
    assert (parameters["prompt"], parameters["seed"], parameters["strength"]) == ("a dog", 8, 1.0)
    assert "grid.png" in capsys.readouterr().out


def test_several_subjects_are_drawn_in_mixed_batches_each_as_alone(subject, other_subject, tiny_base, tmp_path):
    flags = ["--base_model", str(tiny_base), "--num", "3", "--num_inference_steps", "2", "--seed", "7"]
    flags += ["--prompt", "a photo of {}", "--prompt", "a {} / snow", "--strength", "0.8"]
    preset = families.Preset(16, 1e-2, 4, 3, 2, 2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(StableDiffusion.presets, families.SD14, preset)
        generate.main([*flags, "--vectors", str(subject), str(other_subject), "--out", str(tmp_path / "both")])
        for one in (subject, other_subject):
            generate.main([*flags, "--vectors", str(one), "--out", str(tmp_path / one.stem)])
    assert len(list((tmp_path / "both").iterdir())) == 2 * 2 * 3 + 1
    largest = 0
    for one in (subject, other_subject):
        for alone in (tmp_path / one.stem).glob("0*.png"):
            mixed = tmp_path / "both" / f"{one.stem}-{alone.name}"
            difference = ImageChops.difference(Image.open(alone), Image.open(mixed))
            largest = max(largest, *(high for _, high in difference.getextrema()))
    assert largest <= 1  # grey levels, by rounding
    first, second = (
        Image.open(tmp_path / "both" / f"{one.stem}-00-a-photo-of-7.png") for one in (subject, other_subject)
    )
    assert ImageChops.difference(first, second).getbbox()  # each has its own


def test_what_does_not_go_with_several_subjects_is_told(subject, other_subject):
    flags = ["--prompt", "x", "--vectors", str(subject), str(other_subject)]
    with pytest.raises(VectorFitError, match="--compare: shows one subject beside its base, got 2"):
        generate.main([*flags, "--compare"])
    with pytest.raises(VectorFitError, match="--vectors: a subject is given twice"):
        generate.main([*flags, str(subject)])
