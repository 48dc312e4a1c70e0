"""The benchmark of storages: one row for each precision and storage, with errors against float64."""

import torch

from benchmarks.storage import HEADER, errors, rows_of


def test_every_storage_has_its_row():
    torch.manual_seed(0)
    rows = list(rows_of("random 40 x 24", torch.randn(40, 24), repeats=1))
    assert [row[1:3] for row in rows] == [
        [precision, storage] for precision in ("float32", "bfloat16") for storage in ("float32", "bf16", "square")
    ]
    assert {len(row) for row in rows} == {len(HEADER)}
    held = {tuple(row[1:3]): float(row[3]) for row in rows}
    assert held["float32", "square"] <= held["float32", "float32"]


def test_errors_are_those_of_float64():
    torch.manual_seed(0)
    change, _, arrives, _, d_sigma, dx = errors(torch.randn(40, 24), "square", torch.float32)
    assert float(change) < 1e-3
    assert abs(float(arrives) - 1) < 1e-3
    assert float(d_sigma) < 1e-4
    assert float(dx) < 1e-5
