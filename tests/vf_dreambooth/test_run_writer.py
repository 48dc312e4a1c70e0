"""What the subject file says of itself to people and other tools."""

import base64
from io import BytesIO

from PIL import Image

import vectorfit as vf
from train_dreambooth_vectorfit import main


def test_it_has_a_title_a_trigger_and_a_picture(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    metadata = vf.read_metadata(tmp_path / "run" / "vectors.safetensors")
    expected = {"architecture": "stable-diffusion-v1/vectorfit", "resolution": "16x16", "prediction_type": "epsilon"}
    expected |= {"title": "sks dog", "trigger_phrase": "sks dog", "sai_model_spec": "1.0.1"}
    assert {name: metadata[f"modelspec.{name}"] for name in expected} == expected
    kind, _, data = metadata["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (16, 16)
    main(arguments(tmp_path / "unseen"))
    assert "modelspec.thumbnail" not in vf.read_metadata(tmp_path / "unseen" / "vectors.safetensors")
