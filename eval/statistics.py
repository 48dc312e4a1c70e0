"""Intervals: pictures of one subject are alike, so it is subjects that are drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `clusters` subjects stand behind it, `n` values in all."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def estimate(values: Mapping[str, Sequence[float]], *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean over subjects of their means, with a percentile interval from a cluster bootstrap.

    Subjects are drawn with replacement, and with them all their values. A single subject tells nothing of others: then
    its values are drawn instead, and the interval speaks of that subject alone. Order and names change nothing.
    """
    rng = np.random.default_rng(seed)
    if len(values) == 1:
        (alone,) = (np.sort(np.asarray(found, float)) for found in values.values())
        samples = alone[rng.integers(len(alone), size=(draws, len(alone)))].mean(1)
        mean = float(alone.mean())
    else:
        means = np.sort([float(np.mean(found)) for found in values.values()])
        samples = means[rng.integers(len(means), size=(draws, len(means)))].mean(1)
        mean = float(means.mean())
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), sum(map(len, values.values())), len(values))


def win_rate(differences: Mapping[str, Sequence[float]]) -> float:
    """The share of pairs in which the first is better; a tie counts half."""
    flat = np.concatenate([np.asarray(found, float) for found in differences.values()])
    return float(((flat > 0) + 0.5 * (flat == 0)).mean())
