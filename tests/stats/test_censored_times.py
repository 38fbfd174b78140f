"""Times to a target of which some never came are censored, and not left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktbench import stats


def test_a_median_counts_seeds_that_never_arrived_as_later() -> None:
    times, late = [2.0, 3.0, 4.0, 6.0, 6.0], [False, False, False, True, True]
    median = stats.median_time(times, late)
    assert (median.value, median.n, median.censored) == (4.0, 5, 2)  # of the arrived alone: 3
    assert median.low == 2.0
    assert median.high is None
    assert stats.median_time([6.0] * 3, [True] * 3).value is None
    most = stats.median_time([2.0, 6.0, 6.0], [False, True, True])
    assert (most.value, most.high) == (None, None)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_without_censoring_it_is_the_lower_median(times: list[int]) -> None:
    median = stats.median_time(times, [False] * len(times))
    assert median.value == sorted(times)[(len(times) - 1) // 2]
    assert median.low is not None
    assert median.low <= median.value


def test_the_interval_of_a_median_covers_it_with_a_third_censored() -> None:
    rng, held = np.random.default_rng(1), []
    for _ in range(300):
        times = rng.exponential(1.0, 20)
        late = times > np.log(3)
        median = stats.median_time(np.where(late, np.log(3), times), late)
        low, high = (-np.inf if median.low is None else median.low), median.high
        held.append(low <= np.log(2) <= (np.inf if high is None else high))
    assert np.mean(held) >= 0.92


def test_a_mean_within_the_budget_counts_the_budget_for_those_that_never_arrive() -> None:
    mean = stats.restricted_mean([2.0, np.nan, 4.0], [6.0, 6.0, 6.0])
    assert mean.mean == pytest.approx(4.0)
    assert mean.n == 3
    assert mean.low is not None
