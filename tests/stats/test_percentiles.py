"""Percentiles with bounds from order statistics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from ktbench.stats.percentiles import bounded_percentile, least_count, order_ranks


@given(st.integers(36, 2000), st.sampled_from([0.5, 0.9]))
def test_the_ranks_are_the_tightest_that_hold_on_each_side(count: int, fraction: float) -> None:
    ranks = order_ranks(count, fraction)
    assert ranks is not None
    low, high = ranks
    below = scipy.stats.binom(count, fraction)
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.cdf(high - 1) >= 0.975 > below.cdf(high - 2)


@pytest.mark.parametrize(("count", "fraction"), [(64, 0.5), (192, 0.9), (662, 0.99)])
def test_the_bounds_hold_the_true_percentile_as_often_as_they_say(
    count: int, fraction: float
) -> None:
    random = np.random.default_rng(0)
    true = -np.log(1 - fraction)  # of the exponential distribution
    held = 0
    for _ in range(1000):
        found = bounded_percentile(random.exponential(size=count), fraction)
        assert found is not None and found.low <= found.value <= found.high
        held += found.low <= true <= found.high
    assert 940 <= held <= 995


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_too_few_samples_have_no_bounds(fraction: float) -> None:
    least = least_count(fraction)
    assert bounded_percentile(range(least), fraction) is not None
    assert bounded_percentile(range(least - 1), fraction) is None


def test_the_value_is_a_sample_at_the_nearest_rank() -> None:
    found = bounded_percentile(range(1, 101), 0.9)
    assert found is not None and found.value == 90
    found = bounded_percentile(range(1, 102), 0.5)
    assert found is not None and found.value == 51


def test_a_fraction_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounded_percentile([1.0], 1.0)
