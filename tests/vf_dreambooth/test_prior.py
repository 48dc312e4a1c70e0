"""Class images: kept, shared, or the user's own."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_training.runs import RunFolder


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def differs(one: Path, other: Path) -> bool:
    return any(not torch.equal(vector, vectors(other)[name]) for name, vector in vectors(one).items())


def test_a_users_own_class_images(arguments, photos, tmp_path):
    own = tmp_path / "dogs"
    own.mkdir()
    for index in range(2):
        Image.new("RGB", (16, 16), (200 * index, 50, 90)).save(own / f"{index}.png")
    main(arguments(tmp_path / "run", "--class_data_dir", own))
    assert not (tmp_path / "class_images").exists()
    main(arguments(tmp_path / "sampled"))
    assert differs(tmp_path / "run", tmp_path / "sampled")
    assert sorted(p.name for p in own.iterdir()) == ["0.png", "1.png"]


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


def test_class_images_that_are_not_there_or_damaged(photos, tiny_base, tmp_path):
    given = ("--instance_dir", photos, "--base_model", tiny_base, "--class_data_dir")
    assert "--class_data_dir" in refused(*given, tmp_path / "nowhere")[0]
    (tmp_path / "dogs").mkdir()
    assert "expected pictures of the class" in refused(*given, tmp_path / "dogs")[0]
    (tmp_path / "dogs" / "a.png").write_bytes(b"x")
    assert "a.png: cannot be read" in refused(*given, tmp_path / "dogs")[0]


@pytest.fixture
def finished(arguments, tmp_path):
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    return RunFolder(tmp_path / "run")


def test_class_images_are_kept_and_shared(finished, arguments):
    root = finished.path.parent / "class_images"
    (folder,) = root.iterdir()
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert len(before) == 4  # three pictures and the manifest
    main(arguments(finished.path.parent / "again"))
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    (folder / "0001.png").unlink()
    lost = Image.open(folder / "0000.png").tobytes()
    main(arguments(finished.path.parent / "third"))
    assert (folder / "0001.png").exists()
    assert Image.open(folder / "0000.png").tobytes() == lost
    again, third = (finished.path.parent / name / "vectors.safetensors" for name in ("again", "third"))
    assert again.read_bytes() == third.read_bytes()
    assert all(torch.equal(vector, load_file(again)[name]) for name, vector in load_file(finished.vectors).items())


def test_class_images_of_another_recipe_are_refused(finished, arguments):
    (manifest,) = (finished.path.parent / "class_images").glob("*/manifest.json")
    manifest.write_text(manifest.read_text().replace("a photo of a dog", "a photo of a cat"))
    with pytest.raises(vf.VectorFitError) as caught:
        main(arguments(finished.path.parent / "again"))
    assert "prompt: made with 'a photo of a cat', wanted 'a photo of a dog'" in str(caught.value)
