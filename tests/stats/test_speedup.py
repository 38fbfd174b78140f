"""Speedup over quality: known curves, properties, and intervals that cover a known truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._simulated import BUDGETS, PLAIN, STEP_COST, TAUGHT, pairs, simulated
from ktbench.stats import Floats, speedup
from ktbench.stats.speedup import Runs


def exact(cost: Floats, quality: Floats) -> Runs:
    return Runs(np.atleast_2d(cost), np.atleast_2d(quality))


@cache
def truth() -> tuple[Runs, Runs]:
    return exact(BUDGETS, PLAIN), exact(STEP_COST * BUDGETS, TAUGHT)


# ---------------------------------------------------------------- curves


def test_half_the_cost_of_every_quality_is_a_speedup_of_two_everywhere() -> None:
    baseline, method = exact(BUDGETS, PLAIN), exact(BUDGETS / 2, PLAIN)
    q = speedup.qualities(baseline, method)
    assert (q[0], q[-1]) == (0.50, 0.70)
    assert speedup.speedup(baseline, method, q).value == pytest.approx(2.0)
    found = speedup.headline(baseline, method)
    assert found is not None and found.value == pytest.approx(2.0)


def test_between_two_budgets_the_cost_is_linear_in_its_logarithm() -> None:
    runs = exact(np.array([1.0, 100.0]), np.array([0.2, 0.6]))
    assert speedup.cost_at(runs, [0.2, 0.4, 0.6]) == pytest.approx([1, 10, 100])


def test_a_quality_that_a_side_does_not_reach_has_no_figure() -> None:
    baseline, method = truth()
    found = speedup.speedup(baseline, method, [0.49, 0.53, 0.54, 0.70, 0.71]).value
    assert np.isnan(found).tolist() == [True, True, False, False, True]
    assert speedup.headline(exact(BUDGETS, PLAIN), exact(BUDGETS, PLAIN + 0.3)) is None


def test_a_budget_that_is_no_better_than_a_cheaper_one_is_left_out() -> None:
    dip = exact(np.array([4.0, 1.0, 2.0, 8.0]), np.array([0.5, 0.3, 0.2, 0.5]))
    cost, quality = speedup.frontier(dip)
    assert np.exp(cost) == pytest.approx([1, 4]) and quality.tolist() == [0.3, 0.5]


def test_seeds_are_averaged_before_budgets_are_compared() -> None:
    runs = Runs(np.array([[1.0, 4.0], [4.0, 16.0]]), np.array([[0.1, 0.5], [0.3, 0.3]]))
    cost, quality = speedup.frontier(runs)
    assert np.exp(cost) == pytest.approx([2, 8]), "geometric means"
    assert quality == pytest.approx([0.2, 0.4])


def test_where_a_method_loses_is_told_as_ranges() -> None:
    q = np.linspace(0, 1, 6)
    where = np.array([True, True, False, False, True, False])
    assert speedup.ranges(q, where) == [(0.0, 0.2), (0.8, 0.8)]
    assert speedup.ranges(q, np.zeros(6, dtype=bool)) == []


def test_the_teachers_own_training_lowers_the_speedup_and_sharing_gives_it_back() -> None:
    baseline, method = truth()
    values = [
        float(speedup.speedup(baseline, method.plus(8.0 / n), [0.65]).value[0])
        for n in (1, 2, 10, 10**9)
    ]
    assert values == sorted(values) and values[0] < 1 < values[-1]
    alone = float(speedup.speedup(baseline, method, [0.65]).value[0])
    assert values[-1] == pytest.approx(alone)


SHORT = st.lists(st.floats(0.01, 100), min_size=2, max_size=6, unique=True)
LEVELS = st.lists(st.integers(0, 10_000).map(lambda n: n / 10_000), min_size=2, max_size=6)
"""Accuracies are counts of images: they lie no closer than that."""


@given(SHORT, LEVELS, SHORT, LEVELS)
def test_each_side_is_the_other_upside_down_and_units_do_not_matter(
    a: list[float], p: list[float], b: list[float], q: list[float]
) -> None:
    first, second = (
        exact(np.array(c[: len(v)]), np.array(v[: len(c)])) for c, v in ((a, p), (b, q))
    )
    at = speedup.qualities(first, second)
    ours, theirs = (speedup.speedup(x, y, at).value for x, y in ((first, second), (second, first)))
    assert np.isfinite(ours).all() and ours * theirs == pytest.approx(1.0)
    minutes = [Runs(runs.cost / 60, runs.quality) for runs in (first, second)]
    assert speedup.speedup(minutes[0], minutes[1], at).value == pytest.approx(ours)


@given(SHORT, LEVELS)
def test_a_better_quality_never_costs_less(costs: list[float], levels: list[float]) -> None:
    size = min(len(costs), len(levels))
    runs = exact(np.array(costs[:size]), np.array(levels[:size]))
    _, quality = speedup.frontier(runs)
    found = speedup.cost_at(runs, np.linspace(quality[0], quality[-1], 50))
    assert (np.diff(found) >= -1e-9 * found[:-1]).all()
    assert found[0] >= min(costs[:size]) * (1 - 1e-9)


@given(st.floats(-10, 10), st.floats(0, 1e6))
def test_break_even_is_the_least_number_that_pays(saving: float, training: float) -> None:
    found = speedup.break_even(saving, training)
    if saving <= training / 1e12:
        assert found is None
        return
    assert found is not None and found >= 1
    assert found * saving > training
    assert found == 1 or (found - 1) * saving <= training


def test_break_even_needs_more_than_is_paid_back_and_a_known_training() -> None:
    assert speedup.break_even(2.0, 10.0) == 6
    assert speedup.break_even(2.0, 9.0) == 5
    assert speedup.break_even(float("nan"), 9.0) is None
    for unknown in (float("nan"), -1.0):
        with pytest.raises(ValueError, match="must be known"):
            speedup.break_even(1.0, unknown)


@pytest.mark.parametrize(
    ("cost", "quality"),
    [
        (np.ones((2, 2)), np.ones((2, 3))),
        (np.ones(3), np.ones(3)),
        (np.zeros((1, 2)), np.ones((1, 2))),
        (np.ones((1, 2)), np.array([[0.5, np.nan]])),
    ],
)
def test_runs_that_cannot_be_are_refused(cost: Floats, quality: Floats) -> None:
    with pytest.raises(ValueError, match=r"^(a )?runs?"):
        Runs(cost, quality)


# ---------------------------------------------------------------- intervals


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_95_percent_interval_covers_the_true_speedup_in_93_to_97_percent(seeds: int) -> None:
    at = np.array([0.60, 0.635, 0.66])
    known = speedup.speedup(*truth(), at).value
    found = [speedup.speedup(*pair, at) for pair in pairs(seeds, 1200, TAUGHT, STEP_COST)]
    covered = np.stack([(c.low <= known) & (known <= c.high) for c in found])
    assert 0.93 <= covered.mean() <= 0.97
    assert (covered.mean(axis=0) > 0.925).all()


@pytest.mark.slow
def test_at_the_qualities_of_the_baselines_budgets_it_covers_too() -> None:
    known = speedup.at_budgets(*truth()).value[1:]
    found = [speedup.at_budgets(*pair) for pair in pairs(5, 1200, TAUGHT, STEP_COST)]
    covered = np.stack([(c.low[1:] <= known) & (known <= c.high[1:]) for c in found])
    assert 0.93 <= covered.mean() <= 0.97
    assert np.isnan(found[0].value[0]), "the method's first budget is already better"


@pytest.mark.slow
def test_the_headlines_interval_allows_for_the_choice_of_the_largest() -> None:
    """Nothing is gained anywhere: the plain interval at the largest ratio is too hopeful."""
    plain, allowed = [], []
    for baseline, method in pairs(5, 600, PLAIN, 1.0):
        head = speedup.headline(baseline, method)
        assert head is not None
        curve = speedup.speedup(baseline, method, [head.q])
        plain.append(curve.low[0] <= 1 <= curve.high[0])
        allowed.append(head.low <= 1 <= head.high)
        assert (head.p > 0.05) == allowed[-1], "the p says what the interval says"
    assert np.mean(plain) < 0.93
    assert np.mean(allowed) >= 0.95


def test_the_p_of_a_speedup_is_at_most_5_percent_where_the_interval_leaves_one_out() -> None:
    curves = [speedup.at_budgets(*pair) for pair in pairs(3, 200, PLAIN, 1.0)]
    p = np.stack([speedup.p_of_one(curve, 3) for curve in curves])
    outside = np.stack([(c.low > 1) | (c.high < 1) for c in curves])
    known = ~np.isnan(p)
    assert ((p <= 0.05) == outside)[known].all() and 0 < outside.sum() < known.sum()
    assert (np.isnan(p) == np.stack([np.isnan(c.low) for c in curves])).all()
    alone = speedup.headline(*truth())
    assert alone is not None and np.isnan(alone.p), "one seed has no p"


def test_what_both_sides_share_widens_no_interval() -> None:
    rng = np.random.default_rng(3)
    runs = [simulated(rng, 5, BUDGETS, curve, np.zeros(5)) for curve in (PLAIN, TAUGHT)]
    luck = np.array([0.02, -0.02, 0.01, -0.01, 0.0])[:, None]
    moved = [Runs(r.cost, r.quality + luck) for r in runs]
    crossed = [moved[0], Runs(runs[1].cost, runs[1].quality - luck)]
    still, paired, unpaired = (
        float(np.log(c.high[0] / c.low[0]))
        for c in (speedup.speedup(a, b, [0.64]) for a, b in (runs, moved, crossed))
    )
    assert paired < 1.5 * still and unpaired > 2 * paired


def test_an_interval_needs_two_seeds_that_differ_and_the_same_seeds() -> None:
    baseline, method = truth()
    assert np.isnan(speedup.speedup(baseline, method, [0.6]).low).all()
    equal = [Runs(r.cost.repeat(3, axis=0), r.quality.repeat(3, axis=0)) for r in truth()]
    found = speedup.speedup(equal[0], equal[1], [0.6])
    assert np.isfinite(found.value).all() and np.isnan(found.low).all()
    with pytest.raises(ValueError, match="same seeds"):
        speedup.speedup(equal[0], method, [0.6])


def test_what_is_saved_has_an_interval_around_the_difference_of_costs() -> None:
    baseline, method = pairs(5, 1, TAUGHT, STEP_COST)[0]
    found = speedup.saved_at_budgets(baseline, method)
    q = baseline.quality.mean(axis=0)
    ours, theirs = speedup.cost_at(baseline, q), speedup.cost_at(method, q)
    assert found.value == pytest.approx(ours - theirs, nan_ok=True)
    assert (found.low < found.value)[1:].all() and (found.value < found.high)[1:].all()
