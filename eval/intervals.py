"""95 % confidence intervals by a bootstrap over subjects, because the images of one subject are similar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 10_000
LEVEL = 0.95
PERCENT = f"{100 * LEVEL:g} %"  # the level as tables print it


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, from `n` values of `clusters` subjects."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def estimate(values: Mapping[str, Sequence[float]], *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean of the subjects' means, with a percentile interval from a cluster bootstrap.

    Subjects are resampled with replacement, each with all its values. For a single subject its values are resampled
    instead, and the interval holds for that subject only. Order and names do not matter.
    """
    rng = np.random.default_rng(seed)
    if len(values) == 1:
        (centers,) = (np.sort(np.asarray(own, float)) for own in values.values())
    else:
        centers = np.sort([float(np.mean(own)) for own in values.values()])
    count, mean = len(centers), float(centers.mean())
    samples = centers[rng.integers(count, size=(draws, count))].mean(1)
    low, high = (np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - mean) * widening(count)
    return Estimate(mean, mean + float(low), mean + float(high), sum(map(len, values.values())), len(values))


def widening(count: int) -> float:
    """The factor that widens a percentile interval of `count` values: from n to n - 1, from normal to Student's t."""
    if count < 2:
        return 1.0
    upper = (1 + LEVEL) / 2
    return float(stats.t.ppf(upper, count - 1) / stats.norm.ppf(upper) * (count / (count - 1)) ** 0.5)


def win_rate(differences: Mapping[str, Sequence[float]]) -> float:
    """The share of pairs in which the first is better. A tie counts half."""
    flat = np.concatenate([np.asarray(own, float) for own in differences.values()])
    return float(((flat > 0) + 0.5 * (flat == 0)).mean())
