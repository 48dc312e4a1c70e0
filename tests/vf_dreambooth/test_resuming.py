"""Nothing lost, nothing different: whatever ends a run, it goes on to the identical file or says why not."""

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vectorfit as vf
from train_dreambooth_vectorfit import main
from vf_dreambooth import objective, setup
from vf_training.runs import RunFolder

# Everything whose state has to survive: momentum, freezing, a schedule, a moving average, two rates, crops and flips.
EVERYTHING = (
    *("--use_ema", "--text_encoder_lr", 5e-3, "--lr_scheduler", "cosine", "--adam_weight_decay", 0.01),
    *("--random_flip", "--no-center_crop", "--max_train_steps", 6, "--snr_gamma", 5),
)


def content(run: Path) -> tuple[bytes, bytes]:
    return (run / "vectors.safetensors").read_bytes(), (run / "log.jsonl").read_bytes()


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """A state's leaves by their paths, tensors as lists."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path}/{key}")
    else:
        yield path, value.tolist() if isinstance(value, torch.Tensor) else value


class Stop(Exception):
    """Ends a training in the middle of a step, as a crash would."""


def stop_in(monkeypatch, step: int) -> None:
    original = objective.Objective.backward

    def backward(self, denoiser, now, accelerator):
        if now == step:
            raise Stop
        return original(self, denoiser, now, accelerator)

    monkeypatch.setattr(objective.Objective, "backward", backward)


@pytest.mark.parametrize("flags", [(), EVERYTHING], ids=["plain", "everything"])
def test_a_resumed_run_equals_the_uninterrupted_one(arguments, tmp_path, monkeypatch, flags):
    main(arguments(tmp_path / "whole", *flags))
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts", *flags))
    assert [entry["step"] for entry in RunFolder(tmp_path / "parts").read_log()] == [1, 2, 3]  # one past the checkpoint
    main(arguments(tmp_path / "parts", *flags, "--resume_from_checkpoint", "latest"))
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    states = [tmp_path / name / "checkpoints" / "step_000004" / "state.pt" for name in ("whole", "parts")]
    first, second = (dict(flat(torch.load(state, weights_only=True))) for state in states)
    assert first.pop("/seconds") > 0 < second.pop("/seconds")  # nothing but the time may differ
    assert first == second
    assert len(first) > 50


def test_a_run_folder_alone_is_enough_to_resume(arguments, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts"))
    main(["--resume_from_checkpoint", str(tmp_path / "parts" / "checkpoints" / "step_000002")])
    assert content(tmp_path / "parts") == content(whole)


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    arguments, whole, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_in(patch, 2)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts"))
    main(arguments(tmp_path / "parts", "--resume_from_checkpoint", "latest"))
    assert "no checkpoint yet" in capsys.readouterr().out
    assert content(tmp_path / "parts") == content(whole)


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(arguments, tmp_path, capsys):
    main(arguments(tmp_path / "run"))
    before = content(tmp_path / "run")
    main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest"))
    assert "already finished" in capsys.readouterr().out
    assert content(tmp_path / "run") == before
    main(["--resume_from_checkpoint", str(tmp_path / "run"), "--max_train_steps", "6"])
    main(arguments(tmp_path / "six", "--max_train_steps", 6))
    assert content(tmp_path / "run") == content(tmp_path / "six")


def test_a_longer_run_that_is_stopped_in_turn_is_not_taken_for_finished(arguments, tmp_path, monkeypatch):
    main(arguments(tmp_path / "run"))
    with monkeypatch.context() as patch:
        stop_in(patch, 7)
        with pytest.raises(Stop):
            main(["--resume_from_checkpoint", str(tmp_path / "run"), "--max_train_steps", "8"])
    main(["--resume_from_checkpoint", str(tmp_path / "run")])
    main(arguments(tmp_path / "eight", "--max_train_steps", 8))
    assert content(tmp_path / "run") == content(tmp_path / "eight")


def test_a_repeated_run_is_resumed_by_the_same_command(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(arguments(tmp_path / "first"))
    command = ["--config", str(tmp_path / "first" / "config.json")]
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(command)
    main([*command, "--resume_from_checkpoint", "latest"])
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name != "class_images"] == ["dog"]
    assert content(tmp_path / "runs" / "dog") == content(tmp_path / "first")


def test_a_run_stopped_before_its_first_step_is_the_one_that_latest_means(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = arguments(None)
    flags = [flag for i, flag in enumerate(flags) if "--output_dir" not in (flag, flags[i - 1])]
    main(flags)
    with monkeypatch.context() as patch:
        patch.setattr("train_dreambooth_vectorfit.build_data_sampler", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            main(flags)
    main([*flags, "--resume_from_checkpoint", "latest"])
    assert content(tmp_path / "runs" / "dog-2") == content(tmp_path / "runs" / "dog")


def test_a_run_of_other_processes_or_class_images_is_not_resumed(arguments, tmp_path, monkeypatch):
    own = tmp_path / "dogs"
    own.mkdir()
    for index in range(4):
        Image.new("RGB", (16, 16), (60 * index, 50, 90)).save(own / f"{index}.png")
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "run", "--class_data_dir", own))
    command = arguments(tmp_path / "run", "--class_data_dir", own, "--resume_from_checkpoint", "latest")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(vf.VectorFitError, match="--train_batch_size: the run was begun with 2, got 4"):
        setup.prepare(command)
    monkeypatch.delenv("WORLD_SIZE")
    Image.new("RGB", (16, 16)).save(own / "3.png")  # the fourth is not among the three that are used
    setup.prepare(command)
    Image.new("RGB", (16, 16)).save(own / "1.png")
    with pytest.raises(vf.VectorFitError, match=r"class images: 1\.png changed"):
        main(command)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_resumed_run_goes_on_on_a_gpu(arguments, tmp_path, monkeypatch, precision):
    flags = (*EVERYTHING, "--mixed_precision", precision)
    main(arguments(tmp_path / "whole", *flags))
    with monkeypatch.context() as patch:
        stop_in(patch, 4)
        with pytest.raises(Stop):
            main(arguments(tmp_path / "parts", *flags))
    main(arguments(tmp_path / "parts", *flags, "--resume_from_checkpoint", "latest"))
    whole, parts = (load_file(tmp_path / name / "vectors.safetensors") for name in ("whole", "parts"))
    for name, vector in whole.items():
        torch.testing.assert_close(parts[name], vector, atol=1e-4, rtol=1e-2)


def test_a_resumed_run_must_stay_the_same_run(arguments, photos, tmp_path):
    main(arguments(tmp_path / "run"))
    (photos / "1.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(vf.VectorFitError) as caught:
        main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest", "--learning_rate", 1, "--seed", 5))
    message = str(caught.value)
    assert "--learning_rate: the run was begun with 0.01, got 1.0" in message
    assert "--seed: the run was begun with 0, got 5" in message
    assert "1.png changed" in message
    with pytest.raises(vf.VectorFitError, match="holds a finished run"):
        main(arguments(tmp_path / "run"))
    with pytest.raises(vf.VectorFitError, match="neither a run folder nor a checkpoint"):
        main(["--resume_from_checkpoint", str(tmp_path / "nowhere")])


def test_a_config_repeats_a_run_exactly(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(arguments(tmp_path / "run", *EVERYTHING))
    main(["--config", str(tmp_path / "run" / "config.json")])
    assert content(tmp_path / "runs" / "dog") == content(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["settings"]["lerning_rate"] = 1
    (tmp_path / "wrong.json").write_text(json.dumps(config))
    with pytest.raises(vf.VectorFitError, match="unknown setting 'lerning_rate'; did you mean learning_rate"):
        main(["--config", str(tmp_path / "wrong.json")])


def write_limited(arguments: list[str], limit: int) -> None:
    """A training in which no file may grow beyond `limit` bytes: writes fail as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        main(arguments)
    except vf.VectorFitError as error:
        os._exit(2 if "cannot be written" in str(error) else 3)
    os._exit(0)


def train(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    main(arguments)
    os._exit(0)


@pytest.fixture(scope="module")
def processes():
    """Processes that come up at once, since what they need is imported before they fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_dreambooth_vectorfit", "diffusers.pipelines.stable_diffusion"])
    return context


def test_a_full_disk_is_said_and_loses_nothing(arguments, whole, tmp_path, processes):
    size = (whole / "checkpoints" / "step_000002" / "state.pt").stat().st_size
    child = processes.Process(target=write_limited, args=(arguments(tmp_path / "run"), size // 2))
    child.start()
    child.join(120)
    assert child.exitcode == 2
    assert not RunFolder(tmp_path / "run").checkpoints()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    main(arguments(tmp_path / "run", "--resume_from_checkpoint", "latest"))
    assert content(tmp_path / "run") == content(whole)


KILLS = 20


@pytest.mark.slow
def test_killed_at_twenty_random_moments_a_run_still_comes_to_the_identical_file(arguments, tmp_path, processes):
    flags = ("--max_train_steps", 24, "--checkpointing_steps", 3, "--num_validation_images", 1)
    train_whole = processes.Process(target=train, args=(arguments(tmp_path / "whole", *flags),))
    began = time.monotonic()
    train_whole.start()
    train_whole.join()
    seconds = time.monotonic() - began
    moments, killed, finished = random.Random(0), 0, 0
    run, tries = tmp_path / "elsewhere" / "run", 0
    while killed < KILLS:
        child = processes.Process(target=train, args=(arguments(run, *flags, "--resume_from_checkpoint", "latest"),))
        child.start()
        child.join(moments.uniform(0.1, 0.9) * seconds)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
        tries += 1
        if (run / "vectors.safetensors").exists():
            assert content(run) == content(tmp_path / "whole")
            finished += 1
            run = tmp_path / "elsewhere" / f"run-{finished}"
        assert tries < 4 * KILLS
    last = processes.Process(target=train, args=(arguments(run, *flags, "--resume_from_checkpoint", "latest"),))
    last.start()
    last.join()
    assert content(run) == content(tmp_path / "whole")
    print(f"{killed} of {KILLS} kills survived")
