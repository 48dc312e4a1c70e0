"""A file is written completely or not at all."""

import os

import pytest

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically


def test_it_makes_the_folders_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (b"first", b"", bytes(range(256)) * 1000):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_what_fails_on_the_way_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path, monkeypatch, failing):
    path = tmp_path / "file.bin"
    write_atomically(path, b"before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(VectorFitError, match=r"file\.bin: cannot be written \(No space left on device\)"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_refused_with_the_path(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(VectorFitError, match="taken: cannot be written"):
        write_atomically(tmp_path / "taken", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VectorFitError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "inside", b"x")
