import numpy as np
import pytest

from eval.intervals import PERCENT, estimate, widening, win_rate


def test_means_are_over_subjects_not_over_pictures():
    interval = estimate({"a": [1.0, 1.0, 1.0, 1.0], "b": [0.0]})
    assert interval.mean == 0.5
    assert (interval.n, interval.clusters) == (5, 2)
    assert interval.low < 0 < 1 < interval.high  # two subjects say very little about others


def test_the_same_values_give_the_same_interval_whatever_their_names_and_order():
    rng = np.random.default_rng(0)
    values = {f"s{i}": rng.normal(size=5).tolist() for i in range(6)}
    renamed = {f"{9 - i}": own for i, own in reversed(list(enumerate(values.values())))}
    assert estimate(renamed) == estimate(values)
    assert estimate(values, seed=1).mean == estimate(values).mean


def test_one_subject_has_an_interval_of_its_own_pictures():
    interval = estimate({"only": [0.0, 1.0] * 50})
    assert interval.low == pytest.approx(0.4, abs=0.03)
    assert interval.high == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("subjects", [3, 5, 10, 30])
def test_the_intervals_cover_as_they_should_where_subjects_differ(subjects):
    """Synthetic worlds of some subjects: 95 % intervals must cover the truth in about 95 of 100."""
    rng, covered, naive = np.random.default_rng(0), 0, 0
    worlds = 600
    for _ in range(worlds):
        means = rng.normal(0.5, 0.1, subjects)
        values = {str(i): rng.normal(mean, 0.05, 8).tolist() for i, mean in enumerate(means)}
        interval = estimate(values, draws=2000)
        covered += interval.low <= 0.5 <= interval.high
        flat = np.concatenate(list(values.values()))
        naive += abs(flat.mean() - 0.5) <= 1.96 * flat.std() / len(flat) ** 0.5
    assert 0.925 <= covered / worlds <= 0.98
    assert naive / worlds < 0.75  # pictures taken for independent: the trap this avoids


def test_win_rates():
    assert win_rate({"a": [1, -1], "b": [0, 2]}) == pytest.approx(0.625)


def test_intervals_are_widened_as_students_t_asks_at_the_level_that_is_printed():
    assert PERCENT == "95 %"
    assert widening(1) == 1
    for count, t in ((2, 12.7062), (3, 4.3027), (11, 2.2281), (31, 2.0423)):  # Student's t at 97.5 %, from tables
        assert widening(count) == pytest.approx(t / 1.95996 * (count / (count - 1)) ** 0.5, rel=1e-4)
