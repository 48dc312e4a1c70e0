"""Which vectors pause: the most trained (Adaptive Vector Freezing), or vectors drawn at random, to compare it with."""

import hashlib
from typing import Any

from vectorfit import AdaptiveVectorFreezing
from vectorfit.modules import Models


class RandomVectorFreezing(AdaptiveVectorFreezing):
    """Freezes `top_k` vectors drawn by lot instead of the most trained ones, at the same steps and in the same way."""

    def __init__(self, models: Models, *, seed: int = 0, **schedule: Any) -> None:
        super().__init__(models, **schedule)
        self.seed = seed

    def rank(self, step: int) -> list[str]:
        """The vectors in an order that depends on the seed, the step and the name alone: the same on every process."""

        def lot(name: str) -> bytes:
            return hashlib.sha256(f"{self.seed} {step} {name}".encode()).digest()

        return sorted(self.averages(), key=lot)


def most_trained(models: Models, seed: int, **schedule: Any) -> AdaptiveVectorFreezing:
    """Adaptive Vector Freezing by `schedule`; nothing in it is random."""
    return AdaptiveVectorFreezing(models, **schedule)


def by_lot(models: Models, seed: int, **schedule: Any) -> AdaptiveVectorFreezing:
    """Random freezing by `schedule`."""
    return RandomVectorFreezing(models, seed=seed, **schedule)
