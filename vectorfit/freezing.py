"""Adaptive Vector Freezing: which vectors, the k most trained ones. When is in schedule.py."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from .errors import VectorFitError
from .modules import Models, named_modules
from .record import vector_parameters
from .schedule import TOP_K, AvfSchedule
from .sharding import gathered

BETA = 0.99  # of the moving average of their strengths


class AdaptiveVectorFreezing:
    """Freezes the `top_k` most trained vectors over all models at each AVF step.

    A frozen vector's gradient is None when the optimizer steps, so that momentum and weight decay do not move it and
    its optimizer state waits; `requires_grad` stays, as DDP needs. Vectors are known by name.

    Args:
        rates: the learning rate of each vector, by which its strength is divided. The paper's strength is an absolute
            distance, so with several rates the vectors with the highest would always count as the most trained.
            Relative to the rate a strength says how many of its own steps a vector has come. By default absolute.

    Raises:
        VectorFitError: a value out of range, a vector without a rate, or `top_k` would leave nothing to train.

    Source: Eq. 4, 5 of VectorFit (arXiv 2503.19530).
    """

    def __init__(
        self,
        models: Models,
        *,
        first_step: int,
        every: int,
        num_freezes: int,
        top_k: int = TOP_K,
        beta: float = BETA,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        if any(type(module).__name__ == "FullyShardedDataParallel" for _, module in named_modules(models)):
            raise VectorFitError(
                "FullyShardedDataParallel cuts vectors up without regard to their names; use fully_shard (FSDP2) or DDP"
            )
        count = len(vector_parameters(models))
        if not 0 <= top_k < count:
            raise VectorFitError(f"top_k: got {top_k}, expected 0 to {count - 1}: the models have {count} vectors")
        if not 0 <= beta < 1:
            raise VectorFitError(f"beta: got {beta}, expected at least 0 and below 1")
        self.models = models
        self.schedule = AvfSchedule(first_step, every, num_freezes)
        self.top_k, self.beta = top_k, beta
        self.frozen: tuple[str, ...] = ()
        self._averages = dict.fromkeys(vector_parameters(models), 0.0)
        self._rates = dict.fromkeys(self._averages, 1.0) if rates is None else dict(rates)
        wrong = [name for name in self._averages if not 0 < self._rates.get(name, 0.0) < math.inf]
        if wrong:
            raise VectorFitError(
                f"rates: {wrong[0]} has {self._rates.get(wrong[0])}, expected a finite number above 0 for every vector"
            )
        self._last_step = 0

    def strengths(self) -> dict[str, float]:
        """S_v of each vector now: the mean absolute distance from its start, over its rate where given. Eq. 4."""
        vectors = vector_parameters(self.models)
        means = torch.stack([gathered(vector.detach()).abs().mean() for vector in vectors.values()])
        return {name: mean / self._rates[name] for name, mean in zip(vectors, means.tolist(), strict=True)}

    def averages(self) -> dict[str, float]:
        """S'_v of each vector, the moving average taken at the AVF steps so far. Eq. 5."""
        return dict(self._averages)

    def step(self, step: int) -> tuple[str, ...]:
        """Chooses anew at an AVF step, drops the gradients of the frozen vectors, and returns the frozen names.

        Called after backward (and its all-reduce), before clipping and `optimizer.step()`; `step` counts optimizer
        updates from 1. A step given twice is counted once.

        Raises:
            VectorFitError: `step` lies before one already made.
        """
        if step < self._last_step:
            raise VectorFitError(f"step: got {step} after {self._last_step}, expected steps that do not go back")
        if not self.frozen and step not in self.schedule:  # the walk over all modules takes 1 % of a small step
            self._last_step = step
            return ()
        vectors = vector_parameters(self.models)
        absent = next((name for name in self._averages if name not in vectors), None)
        if absent is not None:
            raise VectorFitError(f"{absent}: gone since the freezing began; is another adapter active?")
        if step > self._last_step and step in self.schedule:
            for name, strength in self.strengths().items():
                self._averages[name] = self.beta * self._averages[name] + (1 - self.beta) * strength
            self.frozen = tuple(self.rank(step)[: self.top_k])
        self._last_step = step
        for name in self.frozen:
            vectors[name].grad = None
        return self.frozen

    def rank(self, step: int) -> list[str]:
        """The vectors in the order in which they are frozen at an AVF step: the most trained first.

        The name breaks ties, so that every process freezes the same vectors.
        """
        return sorted(self._averages, key=lambda name: (-self._averages[name], name))

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": list(self.frozen), "averages": self.averages(), "last_step": self._last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state. Raises VectorFitError where it is of other vectors."""
        unmatched = set(state["averages"]) ^ set(self._averages)
        if unmatched:
            raise VectorFitError(
                f"the AVF state is of other vectors: {sorted(unmatched)[:3]} and {max(0, len(unmatched) - 3)} more"
            )
        self.frozen, self._averages = tuple(state["frozen"]), dict(state["averages"])
        self._last_step = int(state["last_step"])
