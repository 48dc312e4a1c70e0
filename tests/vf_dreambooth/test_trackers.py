"""Experiment trackers: what they are sent, and what happens where they cannot be."""

import importlib.util

import accelerate.tracking
import pytest
from accelerate import Accelerator
from PIL import Image

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import network, trackers


def test_every_tracker_of_accelerate_can_be_named():
    assert set(trackers.NAMES) == set(accelerate.tracking.LOGGER_TYPE_TO_CLASS)


def test_tensorboard_gets_the_losses_the_grids_and_the_figures(arguments, tmp_path, figures):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    main(arguments(tmp_path / "run", "--report_to", "tensorboard", "--num_validation_images", 1))
    (file,) = (tmp_path / "run" / "tensorboard").glob("events*")
    events = accumulator.EventAccumulator(str(file.parent), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples")] == [0, 2, 4]
    assert {"samples", "analysis/strength", "analysis/timeline"} == set(events.Tags()["images"])


def test_a_tracker_that_is_not_installed_is_named_with_the_other_mistakes(arguments, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "comet_ml" else found(name))
    with pytest.raises(vf.VectorFitError) as caught:
        main(arguments(tmp_path / "run", "--report_to", "comet_ml", "--seed", -1))
    assert "--report_to: comet_ml is not installed; pip install comet-ml" in str(caught.value)
    assert "--seed" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_server_that_must_answer_and_does_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(vf.VectorFitError, match=r"mlflow's server http://127\.0\.0\.1:9 does not answer"):
        trackers.check("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "runs/mlflow")  # a folder needs no server
    trackers.check("mlflow")


def test_wandb_without_a_network_keeps_the_run_here(arguments, tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setattr(network, "answers", lambda address: False)
    main(arguments(tmp_path / "run", "--report_to", "wandb", "--num_validation_images", 1))
    assert "api.wandb.ai does not answer, kept here; send it with wandb sync" in capsys.readouterr().out
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert len(list(kept.rglob("samples*.png"))) == 3


def test_a_tracker_that_refuses_says_why(tmp_path):
    class Refusing:
        def print(self, *_):
            pass

        def init_trackers(self, *_):
            raise ValueError("nobody is logged in\nmore")

    with pytest.raises(vf.VectorFitError, match=r"--report_to: tensorboard does not start \(nobody is logged in\)"):
        trackers.start(Refusing(), "tensorboard", tmp_path / "run", {})


def test_pictures_are_sent_in_the_form_that_each_tracker_takes(tmp_path):
    class Taking:
        def __init__(self, name):
            self.name, self.sent = name, []

        def log_images(self, values, step, **more):
            self.sent.append((values, step, more))

    class Numbers:
        name = "dvclive"

    accelerator = Accelerator()
    wandb, aim = Taking("wandb"), Taking("aim")
    accelerator.trackers = [wandb, aim, Numbers()]
    trackers.send_picture(accelerator, "samples", Image.new("RGB", (6, 4), "red"), 7)
    (((listed), step, _),) = wandb.sent
    assert step == 7
    assert [picture.shape for picture in listed["samples"]] == [(4, 6, 3)]
    assert aim.sent[0][0]["samples"].shape == (4, 6, 3)
