"""The training script from command line to subject file, on a tiny Stable Diffusion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_training.runs import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finished(arguments, figures, tmp_path):
    main(arguments(tmp_path / "run", "--num_validation_images", 1))
    return RunFolder(tmp_path / "run")


def test_a_run_leaves_exactly_what_it_should(finished):
    files = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "log.jsonl",
        "vectors.safetensors",
        "analysis/strength.png",
        "analysis/timeline.png",
        *(f"samples/step_00000{step}.png" for step in (0, 2, 4)),
        *(f"checkpoints/step_00000{step}/{name}" for step in (2, 4) for name in ("vectors.safetensors", "state.pt")),
    }
    log = finished.read_log()
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert [len(entry["frozen"]) for entry in log] == [0, 3, 3, 3]
    config = finished.read_config()
    assert config["settings"]["instance_prompt"] == "a photo of sks dog"
    assert config["settings"]["class_prompt"] == "a photo of a dog"
    assert config["seconds"] > 0


def test_the_subject_file_holds_every_vector_and_describes_itself(finished, tiny_base):
    vectors, metadata = load_file(finished.vectors), vf.read_metadata(finished.vectors)
    models = {part for name in vectors for part in [name.split(".")[0]]}
    assert models == {"unet", "text_encoder"}
    assert not any("text_model" in name for name in vectors)
    moved = sum(v.abs().sum() > 0 for v in vectors.values())
    assert moved == len(vectors)
    assert metadata["vectorfit.base_model"] == tiny_base.name
    assert metadata["modelspec.trigger_phrase"] == "sks dog"
    assert str(ROOT) not in json.dumps(metadata)


def test_two_runs_give_byte_identical_files_and_logs(arguments, tmp_path):
    for name in ("a", "b"):
        torch.manual_seed(hash(name) % 1000)  # the global state must not matter
        samples = () if name == "a" else ("--num_validation_images", "1")  # nor must previews
        main(arguments(tmp_path / name, *samples))
    first, second = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    assert first.log.read_bytes() == second.log.read_bytes()
    assert load_file(first.vectors).keys() == load_file(second.vectors).keys()
    for name, vector in load_file(first.vectors).items():
        assert torch.equal(vector, load_file(second.vectors)[name])
    main(arguments(tmp_path / "c"))
    assert (tmp_path / "c" / "vectors.safetensors").read_bytes() == first.vectors.read_bytes()


def test_accumulation_equals_one_larger_batch(arguments, tmp_path):
    # With a large epsilon AdamW does not divide rounding errors by gradients near zero.
    flags = ("--adam_epsilon", "1")
    main(arguments(tmp_path / "whole", "--train_batch_size", "4", *flags))
    main(arguments(tmp_path / "parts", "--gradient_accumulation_steps", "2", *flags))
    whole, parts = (load_file(tmp_path / name / "vectors.safetensors") for name in ("whole", "parts"))
    for name, vector in whole.items():
        assert vector.abs().max() > 0
        torch.testing.assert_close(parts[name], vector, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-with_prior_preservation",),
        ("--no-train_text_encoder",),
        ("--no-avf",),
        ("--gradient_checkpointing",),
        ("--mixed_precision", "bf16"),
    ],
)
def test_each_choice_trains(arguments, tmp_path, flags):
    main(arguments(tmp_path / "run", *flags))
    vectors = load_file(tmp_path / "run" / "vectors.safetensors")
    assert all(v.dtype == torch.float32 for v in vectors.values())
    assert ("--no-train_text_encoder" in flags) != any(name.startswith("text_encoder.") for name in vectors)
    frozen = [entry["frozen"] for entry in RunFolder(tmp_path / "run").read_log()]
    assert ("--no-avf" in flags) != any(frozen)


def test_checkpointing_gives_the_same_gradients(arguments, whole, tmp_path):
    main(arguments(tmp_path / "less", "--gradient_checkpointing"))
    plain, less = (load_file(run / "vectors.safetensors") for run in (whole, tmp_path / "less"))
    assert all(torch.equal(vector, less[name]) for name, vector in plain.items())


@pytest.mark.slow
def test_accelerate_launch_runs_the_script(arguments, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(ROOT / "train_dreambooth_vectorfit.py")]
    flags = arguments(tmp_path / "run")
    done = subprocess.run([*launch, *flags], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "a photo of sks dog" in done.stdout


def test_mistakes_are_named(photos, tiny_base, tmp_path):
    def refused(*flags: str) -> str:
        with pytest.raises(vf.VectorFitError) as caught:
            main(list(flags))
        return str(caught.value)

    given = ("--instance_dir", str(photos), "--base_model", str(tiny_base))
    assert "no such folder" in refused("--instance_dir", str(tmp_path / "none"), "--class_noun", "dog")
    (tmp_path / "images").mkdir()
    assert "--class_noun" in refused("--instance_dir", str(tmp_path / "images"), "--base_model", str(tiny_base))
    assert "model_index.json" in refused("--instance_dir", str(photos), "--base_model", str(tmp_path))
    message = refused(*given, "--learning_rate", "-1", "--train_batch_size", "0")
    assert "--learning_rate: got -1.0" in message
    assert "--train_batch_size: got 0" in message
    (photos / "3.jpg").write_bytes(b"not a picture")
    (photos / "4.png").write_bytes((photos / "0.png").read_bytes()[:100])
    message = refused(*given)
    assert "3.jpg" in message
    assert "4.png" in message
    assert "did you mean --learning_rate?" in refused(*given, "--learning_rat", "1")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["--train_text_encoder", "--no-train_text_encoder"])
def test_a_compiled_step_gives_the_identical_file(arguments, tmp_path, monkeypatch, text):
    main(arguments(tmp_path / "plain", text))
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    main(arguments(tmp_path / "compiled", text))
    plain, compiled = (tmp_path / name / "vectors.safetensors" for name in ("plain", "compiled"))
    assert plain.read_bytes() == compiled.read_bytes()
