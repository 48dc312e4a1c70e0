"""What every test may rely on: known randomness, no factors from outside, gpu tests skipped where there is none."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest
import torch

from vf_training.storage import Storage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # not by keyword: a folder may be called gpu
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def pytest_configure() -> None:
    """Gives each of several test processes a core of its own: two that use all cores slow each other fourfold."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # the libraries' millions of objects: the trainers collect garbage after every run, a second each time


@pytest.fixture(autouse=True, scope="module")
def _own_accelerator() -> Iterator[None]:
    """Accelerate keeps one state in a process: a training of another precision would be refused."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_factors_outside_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTORFIT_CACHE", "off")


@pytest.fixture
def memory() -> Iterator[Storage]:
    """A storage that is not this machine's file system, empty."""
    storage = Storage("memory://runs")
    _empty(storage)
    yield storage
    _empty(storage)


def _empty(storage: Storage) -> None:
    storage.files.store.clear()
    storage.files.pseudo_dirs[:] = [""]
