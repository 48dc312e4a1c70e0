"""Two processes train what one trains: the same frozen sets, the same vectors within rounding, one set of files."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train_dreambooth_vectorfit import main
from vf_dreambooth.run_writer import RunWriter
from vf_training.runs import RunFolder

ROOT = Path(__file__).parents[2]
# With a large epsilon AdamW does not divide rounding errors by gradients near zero.
COMPARABLE = ("--adam_epsilon", 1, "--learning_rate", 1, "--num_class_images", 5, "--sample_batch_size", 2)


def rank(number: int, count: int, port: int, arguments: list[str]) -> None:
    settings = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in settings.items()})
    torch.set_num_threads(1)
    log = RunWriter.log

    def logged(self: RunWriter, entry: dict) -> None:
        with (self.run.path.parent / f"frozen-{number}.jsonl").open("a") as file:
            file.write(json.dumps(entry["frozen"]) + "\n")
        log(self, entry)

    RunWriter.log = logged
    main(arguments)
    os._exit(0)


def run_on(count: int, arguments: list[str]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_dreambooth_vectorfit", "diffusers.pipelines.stable_diffusion"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [context.Process(target=rank, args=(number, count, port, arguments)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * count


def assert_alike(one: Path, other: Path) -> None:
    first, second = (load_file(folder / "vectors.safetensors") for folder in (one, other))
    for name, vector in first.items():
        assert vector.abs().max() > 0
        torch.testing.assert_close(second[name], vector, atol=1e-6, rtol=2e-3)
    logs = [RunFolder(folder).read_log() for folder in (one, other)]
    assert [entry["frozen"] for entry in logs[0]] == [entry["frozen"] for entry in logs[1]]
    assert any(entry["frozen"] for entry in logs[0])
    for before, after in zip(*logs, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-3)


def pictures(folder: Path) -> dict[str, bytes]:
    (images,) = (folder / "class_images").iterdir()
    return {path.name: path.read_bytes() for path in sorted(images.iterdir())}


DRIFT = ("--prior", "drift", "--drift_weight", 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), pytest.param(DRIFT, marks=pytest.mark.slow)], ids=["class images", "drift"])
def test_two_processes_equal_one(arguments, tmp_path, flags):
    run_on(1, arguments(tmp_path / "one" / "run", *COMPARABLE, *flags, "--train_batch_size", 4))
    run_on(2, arguments(tmp_path / "two" / "run", *COMPARABLE, *flags, "--train_batch_size", 2))
    if not flags:
        assert pictures(tmp_path / "one") == pictures(tmp_path / "two")  # drawn by one, and shared out between two
    assert_alike(tmp_path / "one" / "run", tmp_path / "two" / "run")
    frozen = [(tmp_path / "two" / f"frozen-{number}.jsonl") for number in range(2)]
    assert frozen[0].read_text() == frozen[1].read_text() != ""
    for file in (*frozen, tmp_path / "one" / "frozen-0.jsonl"):
        file.unlink()
    names = [
        sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert names[0] == names[1]


@pytest.mark.slow
def test_several_subjects_on_two_processes(arguments, photos, tmp_path):
    several = tmp_path / "several"
    for name in ("dog1", "dog2"):
        shutil.copytree(photos, several / name)
    run_on(2, arguments(tmp_path / "out", "--instance_dir", several))
    first, second = (load_file(tmp_path / "out" / name / "vectors.safetensors") for name in ("dog1", "dog2"))
    assert all(torch.equal(vector, second[name]) for name, vector in first.items())


@pytest.mark.slow
def test_two_launched_processes_with_accumulation_equal_one(arguments, photos, tmp_path):
    # Class images of one's own: the launched script does not know of the tests' quick preset for drawing them.
    given = ("--class_data_dir", photos, "--num_class_images", 3)
    # On CPUs it is torchrun that starts several: accelerate's own launcher starts one there, whatever it is asked for.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29543"]
    launch += [str(ROOT / "train_dreambooth_vectorfit.py"), "--gradient_accumulation_steps", "2"]
    main(arguments(tmp_path / "one" / "run", *COMPARABLE, *given, "--train_batch_size", 4))
    flags = arguments(tmp_path / "two" / "run", *COMPARABLE, *given, "--train_batch_size", 1)
    done = subprocess.run([*launch, *flags], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("subject file") <= 1
    assert_alike(tmp_path / "one" / "run", tmp_path / "two" / "run")
