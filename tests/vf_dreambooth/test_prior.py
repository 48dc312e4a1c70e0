"""Class images: kept, shared, or the user's own."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vectorfit import VectorFitError
from vf_dreambooth import families, pipeline
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.families.stable_diffusion import StableDiffusion
from vf_dreambooth.pipeline import GenerationSettings
from vf_dreambooth.prior import class_images, recipe_for
from vf_training.runs import RunFolder

SAMPLING = GenerationSettings(2, 2.0, 16, batch_size=2)


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


def test_images_that_another_machine_keeps_to_itself_are_missed(tiny_base, tmp_path):
    """As the first of two processes: the other one's batch is drawn elsewhere."""
    pipe = load(resolve(str(tiny_base)))
    recipe = recipe_for(pipe, "a dog", SAMPLING, "no", 0)
    first = SimpleNamespace(
        is_main_process=True,
        process_index=0,
        num_processes=2,
        wait_for_everyone=lambda: None,
        autocast=contextlib.nullcontext,
    )
    with pytest.raises(VectorFitError, match=r"class images are not here.*all machines share"):
        class_images(pipe, recipe, 2 * SAMPLING.batch_size, tmp_path, SAMPLING, first)


def test_class_images_and_grids_take_the_presets_quick_scheduler(arguments, tmp_path, monkeypatch):
    quick = families.Preset(16, 1e-2, 4, 3, 50, 2.0, quick=("DPMSolverMultistepScheduler", 2))
    monkeypatch.setitem(StableDiffusion.presets, families.SD14, quick)
    drawn_with, plain = [], pipeline.generate

    def counted(pipe, *others, **named):
        drawn_with.append((type(pipe.scheduler).__name__, others[2].num_inference_steps))
        return plain(pipe, *others, **named)

    monkeypatch.setattr(pipeline, "generate", counted)
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    assert set(drawn_with) == {("DPMSolverMultistepScheduler", 2)}
    (manifest,) = (tmp_path / "class_images").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["scheduler"].startswith("DPMSolverMultistepScheduler")
