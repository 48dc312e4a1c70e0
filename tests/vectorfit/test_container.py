"""The container of every file: equal bytes for equal inputs, and damage is told from what is not ours."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from vectorfit import VectorFitError, container

TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.float16)}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "file"
    container.write(path, TENSORS, {"base_model": "x"}, {"other": "y"})
    tensors, metadata = container.read(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert metadata == container.read_metadata(path)
    assert metadata["vectorfit.base_model"] == "x"
    assert metadata["vectorfit.num_vectors"] == "2"
    assert metadata["other"] == "y"
    container.require_untouched(path, tensors, metadata)


def test_equal_inputs_give_equal_bytes_whatever_their_order(tmp_path):
    more = {f"key{number}": str(number) for number in range(20)}
    container.write(tmp_path / "one", TENSORS, more)
    container.write(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(more.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@given(st.data())
def test_damage_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("container") / "file"
    container.write(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(VectorFitError):
        tensors, metadata = container.read(path)
        container.require_untouched(path, tensors, metadata)
        # Taken: so it was a key of the metadata, which the tensors' hash does not cover.
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_what_is_not_ours_or_of_a_later_version_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    container.write(tmp_path / "later", TENSORS, {"format_version": "9"})
    for read in (container.read, container.read_metadata):
        with pytest.raises(VectorFitError, match="not one of VectorFit's"):
            read(tmp_path / "foreign")
        with pytest.raises(VectorFitError, match="format version 9, expected 1"):
            read(tmp_path / "later")
        with pytest.raises(VectorFitError, match="cannot be read"):
            read(tmp_path / "absent")


def test_a_list_of_heads_that_is_damaged_is_told(tmp_path):
    assert container.heads_of("x", {"vectorfit.modules_to_save": '["a.b"]'}) == ["a.b"]
    assert container.heads_of("x", {}) == []
    with pytest.raises(VectorFitError, match="list of modules trained whole is damaged"):
        container.heads_of("x", {"vectorfit.modules_to_save": "5"})
