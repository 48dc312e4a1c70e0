"""What subjects in one batch must have in common."""

import shutil

import pytest

from vectorfit import VectorFitError
from vf_dreambooth import setup
from vf_dreambooth.together import groups


@pytest.fixture
def folders(photos, tmp_path):
    for name in ("dog", "cat"):
        shutil.copytree(photos, tmp_path / "all" / name)
    return tmp_path / "all"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mixed_precision", "fp16"), "fp16 scales the gradients of all subjects by one factor"),
        (("--method", "lora"), "--method lora trains no vectors"),
        (("--method", "svft"), "--method svft trains no vectors that rows"),
        (("--method", "sigma_dropout"), "--method sigma_dropout drops singular values at random"),
        (("--compile",), "--compile compiles a model for one subject"),
        (("--gradient_checkpointing", "--aspect_ratio_buckets"), "leave one of them out"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments, folders, tmp_path, flags, message):
    plain = () if "--method" not in flags else ("--no-avf",)
    command = arguments(tmp_path / "runs", "--instance_dir", folders, "--together", 2, *plain, *flags)
    with pytest.raises(VectorFitError, match=message):
        setup.prepare(command)


def test_one_subject_alone_is_told(arguments, tmp_path):
    with pytest.raises(VectorFitError, match="--together 2: one subject alone; give --instance_dir a folder of"):
        setup.prepare(arguments(tmp_path / "run", "--together", 2))


def test_several_processes_are_refused(arguments, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(VectorFitError, match="--together 2: 2 processes"):
        setup.prepare(arguments(tmp_path / "runs", "--instance_dir", folders, "--together", 2))


def test_two_that_fit_are_prepared(arguments, folders, tmp_path):
    setups, _ = setup.prepare(arguments(tmp_path / "runs", "--instance_dir", folders, "--together", 2))
    assert [one.run.path.name for one in setups] == ["cat", "dog"]


def test_groups_keep_the_order():
    assert groups("abcde", 2) == [["a", "b"], ["c", "d"], ["e"]]
