"""A fleet's worker: one base for many subjects, runs on any storage."""

import sys
from types import SimpleNamespace

import pytest

import train_dreambooth_vectorfit as script
from vectorfit import VectorFitError
from vf_dreambooth.fleet_worker import COMPLETE, Storage, Subject, Worker, at_hand
from vf_training.runs import RunFolder

FLAGS = [
    *("--resolution", "16", "--max_train_steps", "2", "--train_batch_size", "1", "--prior", "none", "--no-avf"),
    *("--checkpointing_steps", "1", "--num_validation_images", "0", "--mixed_precision", "no"),
]


@pytest.fixture
def memory():
    """A storage that is not this machine's file system, empty."""
    storage = Storage("memory://runs")
    emptied(storage)
    yield storage
    emptied(storage)


def emptied(storage):
    storage.files.store.clear()
    storage.files.pseudo_dirs[:] = [""]


def test_subjects_are_trained_on_one_load_of_the_base(photos, tiny_base, tmp_path, monkeypatch):
    loads, own = [], script.load
    monkeypatch.setattr(script, "load", lambda base: loads.append(base) or own(base))
    worker = Worker([*FLAGS, "--base_model", str(tiny_base)])
    for name in ("first", "second"):
        outcome = worker.train(Subject(name, str(photos), str(tmp_path / name)))
        assert (outcome.name, outcome.state) == (name, "trained"), outcome
    assert len(loads) == 1
    files = [(tmp_path / name / "vectors.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]  # the second training found the base as the first did
    again = worker.train(Subject("first", str(photos), str(tmp_path / "first")))
    assert again.state == "found finished"


def test_what_a_user_can_mend_is_an_outcome_and_other_errors_are_raised(photos, tiny_base, tmp_path, monkeypatch):
    worker = Worker([*FLAGS, "--base_model", str(tiny_base)])
    (tmp_path / "empty").mkdir()
    outcome = worker.train(Subject("empty", str(tmp_path / "empty"), str(tmp_path / "run")))
    assert outcome.state == "failed"
    assert "empty" in outcome.about
    monkeypatch.setattr(worker, "script", SimpleNamespace(prepare=lambda flags: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        worker.train(Subject("dog", str(photos), str(tmp_path / "run")))


def test_a_run_on_a_storage_is_resumed_from_its_copied_checkpoints(memory, tmp_path):
    first = RunFolder(tmp_path / "first")
    first.write_config({"settings": {}})
    for step in (1, 2):
        with first.new_checkpoint(step) as folder:
            (folder / "state.pt").write_bytes(b"x" * step)
    (first.checkpoints_folder / ".step_000003.tmp").mkdir()
    (first.checkpoints_folder / ".step_000003.tmp" / "state.pt").write_bytes(b"half")
    memory.keep(first.path)
    memory.keep(first.path)  # what is there already is left alone
    torn = f"{memory.path}/checkpoints/step_000004"
    memory.files.makedirs(torn)
    memory.files.pipe_file(f"{torn}/state.pt", b"ha")  # of a worker that died while it copied
    second = RunFolder(tmp_path / "second")
    memory.fetch(second.path)
    assert sorted(second.checkpoints()) == [1, 2]
    assert (second.checkpoint(2) / "state.pt").read_bytes() == b"xx"
    assert memory.files.exists(f"{memory.path}/checkpoints/step_000002/{COMPLETE}")
    assert second.read_config() == {"settings": {}}


def test_a_local_folder_is_used_itself_and_a_remote_one_is_copied_back(memory, tmp_path):
    with at_hand(str(tmp_path), tmp_path / "scratch", kept=True) as folder:
        assert folder == tmp_path
    with at_hand("memory://runs/dog", tmp_path / "scratch", kept=True) as folder:
        assert folder.name == "dog"
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text("{}\n")
    assert not folder.exists()
    with at_hand("memory://runs/dog", tmp_path / "scratch", kept=False) as again:
        assert (again / "log.jsonl").read_text() == "{}\n"
    assert Storage("memory://runs").folders() == ["dog"]


@pytest.mark.skipif(sys.platform == "win32", reason="rights of another kind")
def test_a_storage_without_rights_or_out_of_reach_is_refused(tmp_path, monkeypatch):
    Storage(str(tmp_path)).require_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(VectorFitError, match=r"file/runs: cannot be written .*give a folder with rights"):
        Storage(str(tmp_path / "file" / "runs")).require_writable()
    with pytest.raises(VectorFitError, match="cannot be read"):
        Storage(str(tmp_path / "absent")).folders()
    with pytest.raises(VectorFitError, match="nowhere://x: cannot be reached"):
        Storage("nowhere://x")
