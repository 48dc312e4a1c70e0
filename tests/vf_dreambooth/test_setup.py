"""Runs are settled before any model is loaded: several subjects, folders, accelerate's settings."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth.setup import announce, prepare
from vf_training.runs import RunFolder


def vectors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "vectors.safetensors")


def differs(one: Path, other: Path) -> bool:
    return any(not torch.equal(vector, vectors(other)[name]) for name, vector in vectors(one).items())


def test_several_subjects_are_one_run_each_and_share_class_images(arguments, photos, tmp_path, capsys):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        (several / name).mkdir(parents=True)
        for path in photos.iterdir():
            (several / name / path.name).write_bytes(path.read_bytes())
    main(arguments(tmp_path / "out", "--instance_dir", several))
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["class_images", "dog1", "dog2"]
    assert len(list((out / "class_images").iterdir())) == 1
    assert not differs(out / "dog1", out / "dog2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("subject ")]
    assert len(lines) == 2
    assert "sks dog: loss" in lines[0]
    (out / "dog2" / "vectors.safetensors").unlink()
    main(arguments(tmp_path / "out", "--instance_dir", several, "--resume_from_checkpoint", "latest"))
    assert not differs(out / "dog1", out / "dog2")
    assert "already finished" in capsys.readouterr().out


def test_one_bad_subject_stops_all_before_any_is_trained(arguments, photos, tmp_path):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        (several / name).mkdir(parents=True)
        (several / name / "0.png").write_bytes((photos / "0.png").read_bytes())
    (several / "dog2" / "1.png").write_bytes(b"x")
    with pytest.raises(vf.VectorFitError, match=r"dog2/1\.png"):
        main(arguments(tmp_path / "out", "--instance_dir", several))
    assert not (tmp_path / "out").exists()


def test_accelerates_own_settings_are_taken(arguments, tmp_path, monkeypatch):
    main(arguments(tmp_path / "flag", "--gradient_accumulation_steps", 2, "--mixed_precision", "bf16"))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    main(arguments(tmp_path / "launched", "--mixed_precision", "auto"))
    assert not differs(tmp_path / "flag", tmp_path / "launched")
    settings = RunFolder(tmp_path / "launched").read_config()["settings"]
    assert (settings["gradient_accumulation_steps"], settings["mixed_precision"]) == (2, "bf16")


def test_rates_of_their_own_are_printed_beside_the_main_one(arguments, tmp_path, capsys):
    main(arguments(tmp_path / "run", "--dry_run"))
    assert "rate 0.01, seed 0" in capsys.readouterr().out
    main(arguments(tmp_path / "run", "--dry_run", "--text_encoder_lr", 0.02))
    assert "rate 0.01 (text encoder 0.02), seed 0" in capsys.readouterr().out


def refused(*flags: object) -> list[str]:
    with pytest.raises(vf.VectorFitError) as caught:
        main([str(flag) for flag in flags])
    return str(caught.value).splitlines()


def test_everything_wrong_is_said_at_once(tmp_path, tiny_base):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = refused(
        *("--instance_dir", folder, "--base_model", tiny_base, "--learning_rate", "fast", "--train_batch_size", 0),
        *("--lr_warmup_steps", 5, "--prior", "drifting", "--lerning_rate", 1, "--num_train_epochs", 4),
    )
    for expected in (
        "--learning_rate: got 'fast', expected a number",
        "--train_batch_size: got 0, expected at least 1",
        "the constant schedule has no warm-up",
        "--prior: got 'drifting', expected one of class_images, base_prediction, drift, none",
        "unknown argument --lerning_rate; did you mean --learning_rate?",
        "unknown argument --num_train_epochs; steps are counted here: --max_train_steps",
        "no photos, it is empty",
        "--class_noun",
    ):
        assert any(expected in line for line in lines), (expected, lines)
    assert len(lines) == 8


def test_folders(photos, tiny_base, tmp_path):
    given = ("--base_model", tiny_base, "--class_noun", "dog")
    assert "no such folder" in refused("--instance_dir", tmp_path / "nowhere", *given)[0]
    assert "a file; expected a folder" in refused("--instance_dir", photos / "0.png", *given)[0]
    for output in (photos, photos / "runs"):
        (line,) = refused("--instance_dir", photos, *given, "--output_dir", output)
        assert "the folder of the photos or inside it" in line
    (line,) = refused("--instance_dir", photos, *given, "--output_dir", photos / "0.png")
    assert "--output_dir" in line
    assert sorted(p.name for p in photos.iterdir()) == ["0.png", "1.png", "2.png"]


def test_several_processes_are_told_what_becomes_of_the_batch(arguments, tmp_path, monkeypatch):
    def told(processes: int, local: int, *flags: object) -> list[str]:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        (setup,), _ = prepare(arguments(tmp_path / "run", *flags))
        lines: list[str] = []
        announce(setup, lines.append)
        return [line for line in lines if " processes of " in line or "machines:" in line]

    assert told(1, 1) == []
    (line,) = told(2, 2)
    assert "2 processes of 2: a step takes 4 photos at the rate that suits 2; --train_batch_size 1 keeps it" in line
    (line,) = told(4, 4)
    assert line.endswith("a step takes 8 photos at the rate that suits 2")
    assert "--output_dir must be on a file system that all of them share" in told(4, 2)[1]


@pytest.mark.parametrize(("variable", "name"), [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_what_splits_the_model_is_refused_with_what_to_use(photos, tiny_base, monkeypatch, variable, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    (line,) = refused("--instance_dir", photos, "--base_model", tiny_base)
    assert f"configured for {name}, which splits the model" in line
    assert "accelerate launch --multi_gpu" in line


def test_compiling_is_announced_with_what_it_costs_at_first(arguments, tmp_path):
    (setup,), _ = prepare(arguments(tmp_path / "run", "--compile"))
    lines: list[str] = []
    announce(setup, lines.append)
    assert any(line.startswith("compiling") and "first step" in line for line in lines)
