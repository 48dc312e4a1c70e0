"""Which base a name means, and why a base is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vectorfit import VectorFitError
from vf_dreambooth import base_models
from vf_dreambooth.base_models import SD14, load, resolve


def test_base_models_and_their_presets(tmp_path):
    starter, sd = resolve("starter"), resolve(SD14)
    assert starter.preset.resolution == 128
    assert (sd.preset.learning_rate, sd.preset.num_class_images, sd.preset.resolution) == (5e-5, 300, 512)
    assert resolve("auto").name == (SD14 if torch.cuda.is_available() else "starter")
    with pytest.raises(VectorFitError, match="no such folder"):
        resolve("./nowhere")


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


def test_bases_that_are_none(photos, tiny_base, tmp_path):
    def of(base: Path | str) -> str:
        (line,) = refused("--instance_dir", photos, "--base_model", base)
        return line

    assert "no model_index.json" in of(photos)
    assert "no such folder" in of("./nowhere")
    assert "expected a checkpoint (.safetensors or .ckpt)" in of(photos / "0.png")
    other = tmp_path / "xl"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "NoFamilysPipeline"}))
    assert "a NoFamilysPipeline, expected a Stable Diffusion 1 or 2" in of(other)
    (other / "model_index.json").write_text("{")
    assert "is damaged" in of(other)
    incomplete = tmp_path / "incomplete"
    shutil.copytree(tiny_base, incomplete)
    shutil.rmtree(incomplete / "vae")
    assert "incomplete, vae is missing" in of(incomplete)
    shutil.copytree(tiny_base / "vae", incomplete / "vae")
    (incomplete / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    assert "cannot be loaded" in of(incomplete)


def test_bases_that_load_but_are_none(tiny_base, tmp_path):
    def refusal(change) -> str:
        folder = tmp_path / change.__name__
        shutil.copytree(tiny_base, folder)
        change(folder)
        with pytest.raises(vf.VectorFitError) as caught:
            load(resolve(str(folder)))
        return str(caught.value)

    def edited(folder: Path, part: str, **values: object) -> None:
        (file,) = (folder / part).glob("*config.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    def no_vocabulary(folder: Path) -> None:
        (folder / "tokenizer" / "tokenizer.json").unlink()

    def cut_text_encoder(folder: Path) -> None:
        file = folder / "text_encoder" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])

    def predicts_samples(folder: Path) -> None:
        edited(folder, "scheduler", prediction_type="sample")

    assert "its tokenizer knows 2 of the text encoder's" in refusal(no_vocabulary)
    assert "cannot be loaded" in refusal(cut_text_encoder)
    assert "predicts 'sample'" in refusal(predicts_samples)


def test_stable_diffusion_out_of_reach_names_the_offline_ways(monkeypatch):
    monkeypatch.setattr(base_models, "_read", lambda base: (_ for _ in ()).throw(OSError("no connection")))
    with pytest.raises(vf.VectorFitError) as caught:
        load(resolve(SD14))
    message = str(caught.value)
    assert "no connection" in message
    assert "--base_model starter" in message
    assert f"hf download {SD14} --local-dir FOLDER" in message
    assert "HF_HOME" in message
