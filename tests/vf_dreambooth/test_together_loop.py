"""Several subjects trained in one batch: each as if it were alone."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from train_dreambooth_vectorfit import main
from vectorfit import VectorFitError
from vf_dreambooth import together_loop
from vf_training.runs import RunFolder

RELATIVE = 1e-4  # of the norm of all vectors: how far rounding may lead a subject from its solo run
# With AdamW's own 1e-8 a gradient that is nothing but rounding moves a vector as far as any other.
EPSILON = ("--adam_epsilon", 1e-5)

# Each with what could leak from subject to subject: schedules, averages, captions, penalties, kept prompts, sizes.
CASES = {
    "plain": (),
    "everything": (
        *("--use_ema", "--text_encoder_lr", 5e-3, "--lr_scheduler", "cosine", "--adam_weight_decay", 0.01),
        *("--random_flip", "--no-center_crop", "--snr_gamma", 5, "--gradient_checkpointing"),
    ),
    "base prediction": ("--prior", "base_prediction", "--gradient_accumulation_steps", 2),
    "penalty and drift": ("--method", "l1", "--no-avf", "--prior", "drift"),
    "text encoder as it is": ("--no-train_text_encoder", "--method", "sigma_a+b", "--no-avf"),
    "sizes": ("--aspect_ratio_buckets",),
}


FAST = ("plain", "everything")


def write_folders(tmp_path, *names):
    """Subjects with different numbers of photos of different forms."""
    rng = np.random.default_rng(1)
    for count, name in enumerate(names, start=2):
        (tmp_path / "all" / name).mkdir(parents=True)
        for index in range(count):
            size = (24, 18 + 10 * (index % 2), 3)
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / "all" / name / f"{index}.png")
    return tmp_path / "all"


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path, "cat", "dog")


@pytest.fixture
def three(tmp_path):
    return write_folders(tmp_path, "cat", "dog", "dog2")


def error(run, other) -> float:
    one, two = (load_file(folder / "vectors.safetensors") for folder in (run, other))
    assert one.keys() == two.keys()
    distance = sum((one[name] - two[name]).square().sum() for name in one).sqrt()
    return float(distance / sum(vector.square().sum() for vector in two.values()).sqrt())


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_each_subject_has_the_vectors_of_its_own_training(arguments, folders, tmp_path, case):
    command = ("--instance_dir", folders, *CASES[case], *EPSILON)
    main(arguments(tmp_path / "together", *command, "--together", 3))
    main(arguments(tmp_path / "alone", *command))
    for name in ("cat", "dog"):
        together, alone = (RunFolder(tmp_path / how / name) for how in ("together", "alone"))
        assert error(together.path, alone.path) < RELATIVE
        assert {p.name for p in together.path.iterdir()} == {p.name for p in alone.path.iterdir()}
        for ours, own in zip(together.read_log(), alone.read_log(), strict=True):
            assert ours.keys() == own.keys()
            assert (ours["step"], ours["frozen"]) == (own["step"], own["frozen"])
            assert ours["loss"] == pytest.approx(own["loss"], rel=1e-4)
            assert ours["grad_norm"] == pytest.approx(own["grad_norm"], rel=1e-3)
        configs = [run.read_config() for run in (together, alone)]
        for config in configs:
            config["settings"]["output_dir"] = None
            assert config.pop("seconds") > 0
            config.pop("peak_memory")
        assert configs[0] == configs[1]
    assert error(tmp_path / "together" / "dog", tmp_path / "alone" / "cat") > 100 * RELATIVE  # they are not all alike


class Stop(Exception):
    pass


def stop_at(monkeypatch, call: int) -> None:
    original, calls = together_loop.Together.update, []

    def update(self, active):
        calls.append(len(active))
        if len(calls) == call:
            raise Stop
        return original(self, active)

    monkeypatch.setattr(together_loop.Together, "update", update)


def test_after_a_kill_all_go_on_from_where_each_was(arguments, three, tmp_path, monkeypatch, capsys):
    command = ("--instance_dir", three, "--together", 3, *EPSILON)
    main(arguments(tmp_path / "whole", *command))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts", *command))
    shutil.rmtree(tmp_path / "parts" / "cat" / "checkpoints")  # as if it had been killed earlier
    finished = tmp_path / "parts" / "dog2"
    shutil.rmtree(finished)
    shutil.copytree(tmp_path / "whole" / "dog2", finished)
    main(arguments(tmp_path / "parts", *command, "--resume_from_checkpoint", "latest"))
    told = capsys.readouterr().out
    assert "cat: no checkpoint yet" in told
    assert "dog: after step 2" in told
    assert "already finished" in told
    for name in ("cat", "dog", "dog2"):
        assert error(tmp_path / "parts" / name, tmp_path / "whole" / name) < RELATIVE
        entries = RunFolder(tmp_path / "parts" / name).read_log()
        assert [entry["step"] for entry in entries] == [1, 2, 3, 4]


def test_a_run_of_the_batch_goes_on_alone(arguments, folders, tmp_path, monkeypatch):
    command = ("--instance_dir", folders, "--together", 3, *EPSILON)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts", *command))
    main(["--resume_from_checkpoint", str(tmp_path / "parts" / "dog")])
    main(arguments(tmp_path / "alone", "--instance_dir", folders, *EPSILON))
    assert error(tmp_path / "parts" / "dog", tmp_path / "alone" / "dog") < RELATIVE


def test_a_subject_whose_loss_is_not_finite_ends_alone(arguments, folders, tmp_path, monkeypatch):
    original = together_loop.Objective.losses

    def losses(self, inputs, predicted, base=None):
        own = original(self, inputs, predicted, base)
        return own * float("nan") if self.config.class_noun == "cat" and len(self.vectors) else own

    monkeypatch.setattr(together_loop.Objective, "losses", losses)
    with pytest.raises(VectorFitError, match=r"cat: the loss is nan at step 1"):
        main(arguments(tmp_path / "together", "--instance_dir", folders, "--together", 3, *EPSILON))
    monkeypatch.setattr(together_loop.Objective, "losses", original)
    assert not (tmp_path / "together" / "cat" / "vectors.safetensors").exists()
    main(arguments(tmp_path / "alone", "--instance_dir", folders, *EPSILON))
    assert error(tmp_path / "together" / "dog", tmp_path / "alone" / "dog") < RELATIVE


def test_groups_follow_one_another(arguments, three, tmp_path, monkeypatch):
    sizes = []
    original = together_loop.Together.update

    def update(self, active):
        sizes.append(len(active))
        return original(self, active)

    monkeypatch.setattr(together_loop.Together, "update", update)
    main(arguments(tmp_path / "runs", "--instance_dir", three, "--together", 2))
    assert sizes == [2] * 4  # the third has no one to be together with, and is trained alone
    assert all((tmp_path / "runs" / name / "vectors.safetensors").exists() for name in ("cat", "dog", "dog2"))
    settings = json.loads((tmp_path / "runs" / "dog2" / "config.json").read_text())["settings"]
    assert settings["together"] is None  # so that it can go on alone


def test_gradients_reach_their_own_subject_alone(arguments, folders, tmp_path, monkeypatch):
    """One subject's samples are left out of the loss: its vectors must not move."""
    original = together_loop.Objective.total

    def total(self, losses, is_class):
        parts = original(self, losses, is_class)
        return tuple(part * 0 for part in parts) if self.config.class_noun == "cat" else parts

    monkeypatch.setattr(together_loop.Objective, "total", total)
    main(arguments(tmp_path / "runs", "--instance_dir", folders, "--together", 3, *EPSILON))
    cat, dog = (load_file(tmp_path / "runs" / name / "vectors.safetensors") for name in ("cat", "dog"))
    assert all(not torch.any(vector) for vector in cat.values())
    assert any(torch.any(vector) for vector in dog.values())
