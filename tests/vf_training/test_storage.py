"""Folders on any storage: copied there whole, fetched from there, and seen from one another."""

import sys

import pytest

from vectorfit import VectorFitError
from vf_training.runs import RunFolder
from vf_training.storage import COMPLETE, Storage, at_hand


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


def test_only_what_is_new_or_changed_is_copied(memory, tmp_path, monkeypatch):
    memory.write("config.json", b"{}")
    memory.write("checkpoints/step_000001/state.pt", b"x")
    memory.fetch(tmp_path, without=("checkpoints",))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    sent, own = [], memory.files.put_file
    monkeypatch.setattr(memory.files, "put_file", lambda path, target: sent.append(target) or own(path, target))
    (tmp_path / "picture.png").write_bytes(b"1")
    memory.keep(tmp_path)
    memory.keep(tmp_path)
    assert sent == [f"{memory.path}/picture.png"]
    (tmp_path / "picture.png").write_bytes(b"22")
    memory.keep(tmp_path)
    assert memory.read("picture.png") == b"22"
    assert len(sent) == 2


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
    with at_hand("memory://runs/dog", tmp_path / "scratch", kept=False, without=("log.jsonl",)) as less:
        assert not (less / "log.jsonl").exists()
    assert Storage("memory://runs").folders() == ["dog"]


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_file_is_written_and_read_by_its_name(where, memory, tmp_path):
    storage = memory if where == "remote" else Storage(str(tmp_path / "new"))
    assert storage.read("scores.json") is None
    storage.write("scores.json", b"{}")
    assert storage.read("scores.json") == b"{}"


def test_places_of_one_storage_are_seen_from_each_other(memory, tmp_path):
    for root in (str(tmp_path), "memory://bucket"):
        photo, folder = Storage(f"{root}/photos/dog/0.png"), Storage(f"{root}/runs/dog/evaluation")
        assert photo.seen_from(folder) == "../../../photos/dog/0.png"
        again = folder.at("../../../photos/dog/0.png")
        assert again.seen_from(Storage(f"{root}/runs")) == "../photos/dog/0.png"
        assert again.path == photo.path
    elsewhere = Storage("memory://bucket/photos/0.png").seen_from(Storage(str(tmp_path)))
    assert elsewhere == "memory:///bucket/photos/0.png"
    assert Storage(str(tmp_path)).at(elsewhere).path == "/bucket/photos/0.png"


@pytest.mark.skipif(sys.platform == "win32", reason="rights of another kind")
def test_a_storage_without_rights_or_out_of_reach_is_refused(tmp_path):
    Storage(str(tmp_path)).require_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(VectorFitError, match=r"file/runs: cannot be written .*give a folder with rights"):
        Storage(str(tmp_path / "file" / "runs")).require_writable()
    with pytest.raises(VectorFitError, match="cannot be read"):
        Storage(str(tmp_path / "absent")).folders()
    with pytest.raises(VectorFitError, match="cannot be read"):
        Storage(str(tmp_path)).at("file").read("config.json")
    with pytest.raises(VectorFitError, match="nowhere://x: cannot be reached"):
        Storage("nowhere://x")
