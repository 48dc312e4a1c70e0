"""The full-size step runs where there is a GPU."""

import pytest

from benchmarks.sd14_step import METHODS, measure


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_full_size_step(method):
    found = measure(method, side=64, batch=4)
    assert found["step"] > 0
    assert found["memory"] < 40 * 2**30
    assert found["trained"] == {"frozen": 0, "vectorfit": 438_656}.get(method, found["trained"])
