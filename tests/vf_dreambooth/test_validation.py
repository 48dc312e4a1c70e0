"""The loss on photos that are not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.photos import read_folder
from vf_dreambooth.pipeline import adapted_models
from vf_dreambooth.validation import TIMES, Validation
from vf_training.runs import RunFolder


@pytest.fixture
def held_out(tmp_path) -> Path:
    folder = tmp_path / "held_out"
    folder.mkdir()
    rng = np.random.default_rng(9)
    for index in range(2):
        Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_it_is_logged_with_every_checkpoint_and_changes_nothing(arguments, whole, held_out, tmp_path, capsys):
    main(arguments(tmp_path / "run", "--validation_data_dir", held_out))
    entries = RunFolder(tmp_path / "run").read_log()
    assert ["validation_loss" in entry for entry in entries] == [False, True, False, True]
    assert "validation   loss" in capsys.readouterr().out
    plain, watched = (load_file(run / "vectors.safetensors") for run in (whole, tmp_path / "run"))
    assert all(torch.equal(vector, watched[name]) for name, vector in plain.items())


def test_the_same_weights_have_the_same_loss_and_others_another(tiny_base, held_out):
    pipe, accelerator = load(resolve(str(tiny_base))), Accelerator(cpu=True)
    config = TrainConfig(
        instance_data_dir="dog", instance_prompt="a photo of sks dog", resolution=16, train_batch_size=3
    )
    validation = Validation(config, pipe, read_folder(held_out))
    vf.inject(adapted_models(pipe))
    first = validation.loss(accelerator)
    torch.manual_seed(5)
    assert validation.loss(accelerator) == first
    torch.testing.assert_close(
        torch.tensor(Validation(config, pipe, read_folder(held_out)).loss(accelerator)), torch.tensor(first)
    )
    for vector in vf.vector_parameters(adapted_models(pipe)).values():
        vector.data.normal_()
    assert validation.loss(accelerator) != pytest.approx(first, rel=1e-3)
    assert len(validation._timesteps) == 2 * TIMES
    assert validation._timesteps[:TIMES].tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


def test_photos_that_are_trained_on_or_cannot_be_read_are_named(arguments, photos, held_out, tmp_path):
    (held_out / "same.png").write_bytes((photos / "1.png").read_bytes())
    with pytest.raises(vf.VectorFitError, match=r"--validation_data_dir: same\.png in .* are trained on too"):
        main(arguments(tmp_path / "run", "--validation_data_dir", held_out))
    with pytest.raises(vf.VectorFitError, match=r"--validation_data_dir: .*no such folder"):
        main(arguments(tmp_path / "run", "--validation_data_dir", tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()
