"""Random freezing, which the paper compares Adaptive Vector Freezing with (vectorfit/freezing.py)."""

import hashlib
from typing import Any

from vectorfit import AdaptiveVectorFreezing
from vectorfit.modules import Models


class RandomVectorFreezing(AdaptiveVectorFreezing):
    """Freezes `top_k` vectors drawn at random, not the most trained ones, at the same steps and in the same way."""

    def __init__(self, models: Models, *, seed: int = 0, **schedule: Any) -> None:
        super().__init__(models, **schedule)
        self.seed = seed

    def rank(self, step: int) -> list[str]:
        """The vectors in an order that depends on the seed, the step and the name alone: the same on every process."""

        def lot(name: str) -> bytes:
            return hashlib.sha256(f"{self.seed} {step} {name}".encode()).digest()

        return sorted(self.averages(), key=lot)
