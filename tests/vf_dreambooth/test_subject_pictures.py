"""Pictures of a subject, in a folder."""

import json

import pytest
from PIL import Image

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
    printed = capsys.readouterr()
    assert [line.rpartition("/")[2] for line in printed.out.splitlines()] == ["grid.png", "comparison.png"]
    assert "drawing the subject: 100%" in printed.err
    assert printed.err.splitlines()[-1].startswith("next         --strength 0.8 draws it weaker")
