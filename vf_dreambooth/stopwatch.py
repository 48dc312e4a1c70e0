"""The time that a run takes, over all the sessions in which it was trained."""

import time


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._earlier = 0.0

    def add(self, seconds: float) -> None:
        """Counts what the run took before it was resumed."""
        self._earlier += seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began + self._earlier
