"""Statistics: against scipy, against plain definitions, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ktbench import stats

accuracies = st.floats(-1, 1, allow_nan=False)
samples = st.lists(accuracies, min_size=2, max_size=30)


@given(samples, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_an_interval_is_scipys_t_interval(values: list[float], level: float) -> None:
    assume(np.std(values, ddof=1) > 1e-9)
    low, high = scipy.stats.t.interval(
        level, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    found = stats.interval(values, level)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), len(values))


@given(samples)
def test_a_sign_is_that_of_scipys_two_sided_t_test(values: list[float]) -> None:
    assume(np.std(values, ddof=1) > 1e-9)
    p = scipy.stats.ttest_1samp(values, 0.0).pvalue
    assume(abs(p - 0.05) > 1e-9)
    expected = "none" if p > 0.05 else "positive" if np.mean(values) > 0 else "negative"
    assert stats.interval(values).sign == expected


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0]])
def test_one_value_or_values_without_spread_have_no_interval(values: list[float]) -> None:
    found = stats.interval(values)
    assert (found.low, found.high, found.sign) == (None, None, "unknown")
    assert found.mean == pytest.approx(values[0])


def test_an_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stats.interval([])


@given(st.lists(st.tuples(st.integers(0, 4), accuracies), max_size=60))
def test_intervals_of_many_groups_are_those_of_each(rows: list[tuple[int, float]]) -> None:
    groups = np.array([g for g, _ in rows], dtype=int)
    values = np.array([v for _, v in rows])
    found = stats.intervals(values, groups, 5)
    for group in range(5):
        own = values[groups == group]
        assert found.n[group] == len(own)
        if len(own):
            alone, together = stats.interval(own), found[group]
            assert together.mean == pytest.approx(alone.mean)
            assert (together.low is None) == (alone.low is None)
            if alone.low is not None:
                assert together.low == pytest.approx(alone.low)
    assert stats.signs(found) == [found[g].sign for g in range(5)]


@given(
    st.dictionaries(st.integers(0, 9), accuracies), st.dictionaries(st.integers(0, 9), accuracies)
)
def test_a_gain_is_paired_over_the_seeds_that_both_have(
    treated: dict[int, float], baseline: dict[int, float]
) -> None:
    shared = treated.keys() & baseline.keys()
    gain = stats.paired_gain(treated, baseline)
    if not shared:
        assert gain is None
        return
    assert gain is not None and gain.n == len(shared)
    back = stats.paired_gain(baseline, treated)
    assert back is not None and back.mean == pytest.approx(-gain.mean)


def test_pairing_by_seed_removes_what_both_sides_share() -> None:
    level = {0: 0.2, 1: 0.5, 2: 0.9}
    noise = {0: 0.001, 1: -0.001, 2: 0.0}
    gain = stats.paired_gain({s: v + 0.05 + noise[s] for s, v in level.items()}, level)
    assert gain is not None and gain.sign == "positive"
    assert gain.high is not None and gain.low is not None and gain.high - gain.low < 0.01


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1))
def test_the_first_to_reach_a_target_has_none_before_it(values: list[float], target: float) -> None:
    index = stats.first_reaching(values, target)
    if index is None:
        assert all(v < target for v in values)
    else:
        assert values[index] >= target
        assert all(v < target for v in values[:index])


@given(st.lists(st.lists(st.floats(0, 1), max_size=6), max_size=8), st.data())
def test_many_runs_reach_their_targets_where_each_does(
    runs: list[list[float]], data: st.DataObject
) -> None:
    targets = data.draw(st.lists(st.floats(0, 1), min_size=len(runs), max_size=len(runs)))
    starts = np.r_[0, np.cumsum([len(r) for r in runs])].astype(int)
    found = stats.first_reaching_each([v for r in runs for v in r], targets, starts)
    for run, target, start, index in zip(runs, targets, starts, found, strict=False):
        alone = stats.first_reaching(run, target)
        assert math.isnan(index) if alone is None else index == start + alone


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_an_interpolated_cost_lies_between_the_epochs_around_the_target(
    values: list[float], target: float
) -> None:
    costs = [float(2 * i + 1) for i in range(len(values))]
    found = stats.cost_to_reach(costs, values, target)
    index = stats.first_reaching(values, target)
    if index is None:
        assert found is None
    else:
        assert found is not None
        assert (costs[index - 1] if index else costs[0]) <= found <= costs[index]


def test_an_interpolated_cost_is_on_the_line() -> None:
    assert stats.cost_to_reach([10, 20, 30], [0.2, 0.4, 0.8], 0.5) == pytest.approx(22.5)
    assert stats.cost_to_reach([10, 20, 30], [0.2, 0.4, 0.8], 0.9) is None


points = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=25
)


@given(points)
def test_the_front_is_what_nobody_beats(found: list[tuple[float, float]]) -> None:
    front = stats.pareto_front([c for c, _ in found], [q for _, q in found])
    for (cost, quality), kept in zip(found, front, strict=True):
        beaten = any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in found)
        assert kept == (not beaten)


def test_an_unknown_figure_is_never_on_the_front() -> None:
    front = stats.pareto_front([1.0, math.nan, 0.5], [0.5, 0.9, math.nan])
    assert front.tolist() == [True, False, False]


@given(arrays(float, st.integers(1, 20), elements=st.floats(1e-3, 1e3)))
def test_a_geometric_mean_is_scipys_and_turns_with_its_ratios(values: np.ndarray) -> None:
    assert stats.geometric_mean(values) == pytest.approx(scipy.stats.gmean(values))
    assert stats.geometric_mean(1 / values) == pytest.approx(1 / stats.geometric_mean(values))


def test_a_geometric_mean_refuses_what_is_no_ratio() -> None:
    assert math.isnan(stats.geometric_mean([]))
    with pytest.raises(ValueError, match="positive"):
        stats.geometric_mean([1.0, 0.0])
