"""A run's time, over all the sessions in which it was trained."""

import time

from vf_dreambooth.stopwatch import Stopwatch


def test_it_runs_from_the_start():
    before = time.perf_counter()
    stopwatch = Stopwatch()
    first = stopwatch.seconds
    time.sleep(0.02)
    second = stopwatch.seconds
    assert first >= 0
    assert second - first >= 0.02
    assert second <= time.perf_counter() - before


def test_earlier_sessions_are_added():
    stopwatch, plain = Stopwatch(), Stopwatch()
    stopwatch.add(100.0)
    stopwatch.add(20.5)
    assert abs(stopwatch.seconds - plain.seconds - 120.5) < 1
