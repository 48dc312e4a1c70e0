"""docs/run-folder.md names the files and keys that runs write: all of them, and no others."""

import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from train_dreambooth_vectorfit import main as train_dreambooth
from vf_dreambooth.checkpoint import STATE
from vf_tasks.__main__ import main as run_task
from vf_training.runs import RunFolder

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")


def documented(heading: str, *writers: str) -> set[str]:
    """The names in the first column of a section's table, of the rows whose second column names one of the writers."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if any(row[1].strip().startswith(writer) for writer in writers)]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


@pytest.fixture(scope="module")
def dreambooth(tmp_path_factory):
    """A run of two steps on the starter, with rates for the text encoder and the biases, and photos to validate on."""
    folder = tmp_path_factory.mktemp("runs") / "clock"
    flags = {"--instance_dir": ROOT / "examples" / "clock", "--base_model": "starter", "--output_dir": folder}
    flags |= {"--max_train_steps": 2, "--prior": "none", "--num_validation_images": 1, "--text_encoder_lr": 0.01}
    flags |= {"--validation_data_dir": ROOT / "examples" / "car"}
    train_dreambooth([str(part) for pair in flags.items() for part in pair])
    AcceleratorState._reset_state(reset_partial_state=True)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A run of a task on a tiny model."""
    folder = tmp_path_factory.mktemp("runs") / "rte"
    assert run_task(["rte", "--tiny", "--output_dir", str(folder)]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return RunFolder(folder)


def top_level(names: set[str]) -> set[str]:
    return {name.split("/")[0] for name in names}


def test_a_dreambooth_run_has_the_documented_files_and_keys(dreambooth):
    assert {path.name for path in dreambooth.path.iterdir()} == top_level(documented("Files", "both", "DreamBooth"))
    assert set(dreambooth.read_config()) == documented("`config.json`", "both", "DreamBooth")
    keys = set().union(*dreambooth.read_log())
    rates = {"lr_bias", "lr_text_encoder", "lr_text_encoder_bias"}
    assert keys == documented("`log.jsonl`", "both", "DreamBooth") | rates
    assert all(f"`{rate}`" in PAGE for rate in rates)


def test_a_task_run_has_the_documented_files_and_keys(task):
    files = top_level(documented("Files", "both", "tasks")) - {"checkpoints"}  # a finished run has deleted them
    assert {path.name for path in task.path.iterdir()} == files
    assert set(task.read_config()) == documented("`config.json`", "both", "tasks")
    assert set().union(*task.read_log()) == documented("`log.jsonl`", "both", "tasks")
    settings = task.read_config()["settings"]
    row = next(line for line in PAGE.splitlines() if line.startswith("| `settings`"))
    assert set(settings) == set(re.findall(r"`([^`]+)`", row.split("Tasks:")[1]))


def test_a_checkpoint_has_the_documented_files_and_keys(dreambooth):
    folder = dreambooth.checkpoints()[2]
    section = PAGE.split("## `checkpoints/`\n")[1]
    files = {re.findall(r"`([^`]+)`", line)[0] for line in section.splitlines() if line.startswith("| `")}
    assert {path.name for path in folder.iterdir()} == files
    keys = re.findall(r"`(\w+)`", section.split("with the keys")[1].split(";")[0])
    assert set(torch.load(folder / STATE, weights_only=True)) == set(keys)
