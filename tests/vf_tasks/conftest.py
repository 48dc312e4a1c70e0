"""Trainer leaves accelerate's state behind, which another precision in the same process may not find."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True, scope="module")
def _own_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
