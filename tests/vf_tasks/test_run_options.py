"""The settings of a run that are not in its recipe."""

import pytest

from vectorfit import VectorFitError
from vf_tasks.run_options import OFFERED, Options


def test_all_that_is_out_of_range_is_told_at_once():
    with pytest.raises(VectorFitError) as caught:
        Options(method="lorra", seed=-1, max_train_rows=0, holdout=0)
    method, seed, rows, held_out = str(caught.value).splitlines()
    assert method == f"--method: got 'lorra', expected one of {', '.join(OFFERED)}"
    assert seed == "--seed: got -1, expected 0 to 4294967295"
    assert (rows, held_out) == (
        "--max_train_rows: got 0, expected at least 1",
        "--holdout: got 0, expected at least 1",
    )
