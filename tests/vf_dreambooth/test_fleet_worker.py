"""A fleet's worker that trains: one base for many subjects."""

from types import SimpleNamespace

import pytest

import train_dreambooth_vectorfit as script
from vf_dreambooth.fleet_worker import Subject, Worker

FLAGS = [
    *("--resolution", "16", "--max_train_steps", "2", "--train_batch_size", "1", "--prior", "none", "--no-avf"),
    *("--checkpointing_steps", "1", "--num_validation_images", "0", "--mixed_precision", "no"),
]


def test_subjects_are_trained_on_one_load_of_the_base(photos, tiny_base, tmp_path, monkeypatch):
    loads, own = [], script.load
    monkeypatch.setattr(script, "load", lambda base: loads.append(base) or own(base))
    worker = Worker([*FLAGS, "--base_model", str(tiny_base)])
    for name in ("first", "second"):
        outcome = worker.work(Subject(name, str(photos), str(tmp_path / name)))
        assert (outcome.name, outcome.state) == (name, "trained"), outcome
    assert len(loads) == 1
    files = [(tmp_path / name / "vectors.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]  # the second training found the base as the first did
    again = worker.work(Subject("first", str(photos), str(tmp_path / "first")))
    assert again.state == "found finished"


def test_what_a_user_can_mend_is_an_outcome_and_other_errors_are_raised(photos, tiny_base, tmp_path, monkeypatch):
    worker = Worker([*FLAGS, "--base_model", str(tiny_base)])
    (tmp_path / "empty").mkdir()
    outcome = worker.work(Subject("empty", str(tmp_path / "empty"), str(tmp_path / "run")))
    assert outcome.state == "failed"
    assert "empty" in outcome.about
    monkeypatch.setattr(worker, "script", SimpleNamespace(prepare=lambda flags: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        worker.work(Subject("dog", str(photos), str(tmp_path / "run")))
