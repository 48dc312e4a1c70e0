"""A run folder as 0.1.0 wrote it: shown, generated from, resumed. It lies in `data/`, with its base and its photos."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.pipeline import GenerationSettings, base_of, generate_images, load_pipeline, set_subjects
from vf_training import methods
from vf_training.analysis import analyze
from vf_training.runs import RunFolder

OLD = Path(__file__).with_name("data") / "run-0.1.0"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The old run, in a folder of its own where its relative paths hold."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return RunFolder("run")


def test_an_old_subject_loads_and_changes_the_pictures(run):
    assert methods.name_of_method(vf.read_metadata(run.vectors)) == "vectorfit"
    pipe = load_pipeline(base_of(run.path))
    models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    vf.load_vectors(models, run.vectors)
    loaded = {name: vector.detach() for name, vector in vf.vector_parameters(models).items()}
    assert len(loaded) == len(load_file(run.vectors))
    assert any(vector.abs().max() > 0 for vector in loaded.values())
    vf.remove(models)
    settings = GenerationSettings(2, 2.0, 8)
    base, subject = (
        generate_images(set_and_return(pipe, subjects), ["a photo of sks dog"], [1], settings)[0].tobytes()
        for subjects in ([], [(run.path, 1.0)])
    )
    assert base != subject


def set_and_return(pipe, subjects):
    set_subjects(pipe, subjects)
    return pipe


def test_an_old_run_resumes_to_the_file_it_came_to(run):
    then, log = load_file(run.vectors), run.read_log()
    run.vectors.unlink()
    main(["--resume_from_checkpoint", "run"])
    now, entries = load_file(run.vectors), run.read_log()
    assert now.keys() == then.keys()
    for name, vector in now.items():
        if not name.endswith("k_proj.bias"):  # the softmax cancels it: its gradient is rounding, which Adam enlarges
            torch.testing.assert_close(vector, then[name], atol=1e-5, rtol=1e-4)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry["loss"] for entry in entries] == pytest.approx([entry["loss"] for entry in log], rel=1e-4)
    assert [entry["frozen"] for entry in entries] == [entry["frozen"] for entry in log]
    assert entries[:3] == log[:3]
    assert [entry["lr_text_encoder"] for entry in entries[3:]] == [5e-3] * 3


def test_an_old_run_is_analysed(run):
    written = analyze(run.path)
    assert {path.name for path in written} >= {"strength.png", "timeline.png", "analysis.json"}
    assert json.loads(written[-1].read_text())["frozen"]
