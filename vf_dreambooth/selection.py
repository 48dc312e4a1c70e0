"""Lets the evaluator pick a finished run's best checkpoint. It is a program of its own, which is started here."""

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from vf_training.runs import RunFolder

from .setup import Setup

# By these torch would take the evaluator for one more process of the training.
DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def pick(setups: Sequence[Setup]) -> None:
    """Picks the best checkpoint of each run that asks for it."""
    for setup in setups:
        if setup.config.select and PartialState().is_main_process:
            launch(setup.run)


def launch(run: RunFolder) -> bool:
    """Picks the best checkpoint of a run; returns whether that worked. If not, the run is as it was, and it is told."""
    gc.collect()  # the training's models make room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    root = Path(__file__).resolve().parents[1]
    evaluator = "eval" if (root / "eval" / "selection.py").exists() else "vf_eval"
    environment = {name: value for name, value in os.environ.items() if name not in DISTRIBUTED}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"{evaluator}.__main__", "select", str(run.path)]
    chosen = subprocess.run(command, env=environment, check=False).returncode == 0
    if not chosen:
        print(f"selection    not made, the last checkpoint stays; try again with: vectorfit eval select {run.path}")
    return chosen
