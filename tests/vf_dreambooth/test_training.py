"""The training script from command line to subject file, on a tiny Stable Diffusion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

import vectorfit as vf
from train_dreambooth_vectorfit import Loop, main
from vf_dreambooth.objective import Objective
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


class Reads(TorchFunctionMode):
    """Notes every call that gives Python the values of a tensor: on an accelerator it would wait for them."""

    READING = frozenset(("item", "tolist", "cpu", "numpy", "nonzero", "unique", "equal", "masked_select", "is_nonzero"))
    CASTS = frozenset(("__bool__", "__float__", "__int__", "__index__", "__contains__"))

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        key = args[1] if name == "__getitem__" else None
        by_mask = any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for part in (key if isinstance(key, tuple) else (key,))
        )
        if name in self.READING | self.CASTS or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--prior", "base_prediction"),
        ("--prior", "drift"),
        ("--snr_gamma", 5),
        ("--gradient_accumulation_steps", 2),
    ],
    ids=str,
)
def test_a_step_waits_for_the_accelerator_once_and_draws_the_next_batch_before(arguments, tmp_path, monkeypatch, flags):
    """What draws a batch is not counted: it has tensors of main memory alone."""
    steps, own, draw, reads = [], Loop.update, Objective.inputs, Reads()

    def update(loop, step, interruption):
        with reads:
            result = own(loop, step, interruption)
        steps.append(list(reads.found))
        reads.found.clear()
        return result

    def inputs(objective, step, *place):
        reads.found.append(f"draws {step}")
        with torch._C.DisableTorchFunction():
            return draw(objective, step, *place)

    monkeypatch.setattr(Loop, "update", update)
    monkeypatch.setattr(Objective, "inputs", inputs)
    main(arguments(tmp_path / "run", "--avf_first_step", 4, *flags))
    batches = 2 if "--gradient_accumulation_steps" in flags else 1
    later = [[*[f"draws {step}"] * batches, "tolist"] for step in (3, 4, 5)]
    later[-1].append("tolist")  # the last step is an AVF step, which reads the strengths before
    assert steps == [[*["draws 1"] * batches, *["draws 2"] * batches, "tolist"], *later]


@pytest.mark.gpu
def test_a_step_on_cuda_waits_once(arguments, tmp_path, monkeypatch):
    own = Loop.update

    def update(loop, step, interruption):
        if step < 3:  # the first steps make the optimizer's state and move constants
            return own(loop, step, interruption)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchroniz") as warned:
                return own(loop, step, interruption)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits = [str(entry.message) for entry in warned if "synchroniz" in str(entry.message)]
            assert len(waits) == 1, waits

    monkeypatch.setattr(Loop, "update", update)
    main(arguments(tmp_path / "run", "--no-avf"))
