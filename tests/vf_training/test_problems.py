"""Everything that is wrong is said at once."""

import pytest

from vectorfit import VectorFitError
from vf_training.problems import Problems


def test_errors_are_noted_in_order_a_line_each_and_raised_together():
    problems, reached = Problems(), []
    for message in ("first", "second\nthird"):
        with problems.noting():
            reached.append(message)
            raise VectorFitError(message)
    with problems.noting():
        reached.append("nothing wrong")
    assert reached == ["first", "second\nthird", "nothing wrong"]
    assert problems.messages == ["first", "second", "third"]
    with pytest.raises(VectorFitError) as error:
        problems.raise_all()
    assert str(error.value) == "first\nsecond\nthird"


def test_without_problems_nothing_is_raised():
    problems = Problems()
    with problems.noting():
        pass
    problems.raise_all()
    assert problems.messages == []


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("b"), KeyboardInterrupt()], ids=repr)
def test_a_fault_of_our_own_is_not_swallowed(error):
    problems = Problems()
    with pytest.raises(type(error)), problems.noting():
        raise error
    assert problems.messages == []
