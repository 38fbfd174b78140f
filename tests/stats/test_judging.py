"""Tests of differences, families of them, effects, power and ranks: against scipy and brute force.

Simulated data of known truth has the last word on intervals and on families of tests.
"""

from __future__ import annotations

import math
from itertools import chain, combinations, product

import numpy as np
import pytest
import scipy
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks._simulated import null_table
from ktbench import stats

accuracies = st.floats(-1, 1, allow_nan=False)
coarse = st.integers(-8, 8).map(lambda k: k / 64)
"""Differences of accuracies on a small test set: with ties and zeros."""


# ---------------------------------------------------------------- tests


@pytest.mark.slow
@given(st.lists(coarse, min_size=1, max_size=8))
def test_a_sign_flip_test_is_the_share_of_all_flips_that_are_as_far_from_zero(
    values: list[float],
) -> None:
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(s >= abs(sum(values)) for s in sums) / len(sums)  # exact: sixty-fourths
    found = stats.sign_flip_test(values)
    assert found == expected
    assert found >= stats.least_sign_flip_p(len(values)) > 0
    assert stats.sign_flip_test([-v for v in reversed(values)]) == found


@pytest.mark.slow
@given(
    st.lists(st.integers(11, 10_000), min_size=2, max_size=7, unique=True).flatmap(
        lambda sizes: st.tuples(*(st.sampled_from([n / 10_000, -n / 10_000]) for n in sizes))
    )
)
def test_a_sign_flip_test_is_scipys_permutation_test(values: tuple[float, ...]) -> None:
    assume(abs(sum(values)) > 1e-3)
    p = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=10_000, vectorized=True
    ).pvalue
    assert stats.sign_flip_test(values) == pytest.approx(p)


def test_a_sign_flip_test_says_nothing_of_what_it_cannot_go_through() -> None:
    assert stats.sign_flip_test([]) is None
    assert stats.sign_flip_test([0.1, math.nan]) is None
    assert stats.sign_flip_test([0.1] * (stats.MOST_FLIPPED + 1)) is None
    assert stats.sign_flip_test([0.1] * 5) == stats.least_sign_flip_p(5) == 1 / 16
    assert stats.sign_flip_test([0.0] * 5) == 1.0


@given(arrays(float, (3, 6), elements=accuracies))
def test_a_t_test_is_scipys(values: np.ndarray) -> None:
    assume((values.std(axis=1, ddof=1) > 1e-6).all())
    found = stats.t_test(stats.intervals(values.ravel(), np.repeat(np.arange(3), 6), 3))
    assert found == pytest.approx(scipy.stats.ttest_1samp(values, 0.0, axis=1).pvalue)


# ---------------------------------------------------------------- families


chances = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0]))


@given(st.lists(chances, min_size=1, max_size=6))
def test_holm_is_bonferroni_of_every_subset_that_a_test_is_in(p: list[float]) -> None:
    indices = range(len(p))
    subsets = list(chain.from_iterable(combinations(indices, k + 1) for k in indices))
    expected = [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in indices
    ]
    assert stats.holm(p) == pytest.approx(expected)


@given(st.lists(st.one_of(chances, st.just(math.nan)), max_size=12))
def test_a_test_without_p_is_outside_the_family(p: list[float]) -> None:
    found = stats.holm(p)
    known = [v for v in p if not math.isnan(v)]
    assert np.array_equal(np.isnan(found), np.isnan(p))
    assert found[~np.isnan(found)] == pytest.approx(stats.holm(known))
    unknown = np.isnan(p)
    signs = stats.signs_at(np.ones(len(p)), found)
    assert [s == "unknown" for s in signs] == unknown.tolist()


def test_holm_refuses_what_is_no_p() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.holm([0.5, wrong])


def test_a_p_at_the_level_itself_is_clear() -> None:
    assert stats.signs_at([1, -1, 1], [0.05, 0.05, 0.0501]) == ["positive", "negative", "none"]


@given(st.lists(chances, min_size=1, max_size=8), st.floats(0, 1))
def test_a_p_within_the_next_alpha_is_rejected_whatever_the_others_become(
    p: list[float], other: float
) -> None:
    adjusted = stats.holm(p)
    undecided = np.flatnonzero(adjusted > 0.05 + 1e-9)
    assume(undecided.size)
    changed = np.array(p)
    changed[undecided] = other
    changed[undecided[0]] = stats.next_alpha(adjusted)
    assert stats.holm(changed)[undecided[0]] <= 0.05 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 3), coarse), max_size=40))
def test_differences_are_judged_group_by_group_and_adjusted_together(
    rows: list[tuple[int, float]],
) -> None:
    groups = np.array([g for g, _ in rows], dtype=int)
    values = np.array([v for _, v in rows])
    found = stats.differences(values, groups, 4)
    assert found.adjusted == pytest.approx(stats.holm(found.p), nan_ok=True)
    for group in range(4):
        own = values[groups == group]
        judged = len(own) >= stats.LEAST_SEEDS and own.std(ddof=1) > 1e-9
        assert (found.sign[group] == "unknown") == (not judged)
        if judged and len(own) <= stats.MOST_FLIPPED:
            assert found.exact[group] == stats.sign_flip_test(own)
        if judged and len(own) > 2:
            d_z = own.mean() / own.std(ddof=1)
            assert abs(found.effect[group]) <= abs(d_z) + 1e-12
    assert found.family == sum(s != "unknown" for s in found.sign)


# ---------------------------------------------------------------- two samples


@given(st.lists(accuracies, min_size=2, max_size=12), st.lists(accuracies, min_size=2, max_size=12))
def test_two_samples_are_compared_as_scipy_does(before: list[float], after: list[float]) -> None:
    assume(np.std(before) > 1e-6 and np.std(after) > 1e-6)
    expected = scipy.stats.ttest_ind(after, before, equal_var=False)
    bounds = expected.confidence_interval(0.95)
    found = stats.welch(before, after)
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx([bounds.low, bounds.high])
    assert (found.sign == "none") == (expected.pvalue > 0.05)


def test_two_samples_that_show_no_spread_are_not_judged() -> None:
    for before, after in (([0.5], [0.6, 0.7]), ([0.5, 0.5], [0.6, 0.6])):
        found = stats.welch(before, after)
        assert (found.sign, found.p, found.low) == ("unknown", None, None)
    for wrong in ([], [math.nan]):
        with pytest.raises(ValueError, match="finite"):
            stats.welch(wrong, [0.1, 0.2])


# ---------------------------------------------------------------- known truth


@pytest.mark.parametrize("n", [3, 5, 12])
def test_95_of_100_t_intervals_of_paired_gains_hold_the_true_gain(n: int) -> None:
    draws, count, true = np.random.default_rng(n), 20_000, 0.013
    values = draws.normal(true, 0.01, (count, n))
    found = stats.intervals(values.ravel(), np.repeat(np.arange(count), n), count)
    held = np.mean((found.low <= true) & (true <= found.high))
    assert 0.945 < held < 0.955


@pytest.mark.slow
def test_95_of_100_welch_intervals_hold_the_true_difference() -> None:
    draws, true = np.random.default_rng(4), 0.02
    found = [
        stats.welch(draws.normal(0.5, 0.01, 5), draws.normal(0.5 + true, 0.02, 6))
        for _ in range(4000)
    ]
    held = np.mean([f.low <= true <= f.high for f in found])  # type: ignore[operator]
    assert 0.93 < held < 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least", "most"), [(5, 0.78, 0.90), (30, 0.93, 0.97)])
def test_the_bootstrap_covers_with_many_seeds_and_falls_short_with_five(
    n: int, least: float, most: float
) -> None:
    draws = np.random.default_rng(8)
    samples = draws.normal(0.3, 1.0, (400, n))
    held = [(b := stats.bca(s)).low <= 0.3 <= b.high for s in samples]  # type: ignore[operator]
    assert least < np.mean(held) < most


@pytest.mark.slow
def test_holm_keeps_false_signs_in_a_whole_matrix_to_its_level() -> None:
    draws, matrices, cells, n = np.random.default_rng(5), 2000, 32, 5
    false, unadjusted = 0, 0
    groups = np.repeat(np.arange(cells), n)
    for _ in range(matrices):
        found = stats.intervals(null_table(draws, cells, n).ravel(), groups, cells)
        p = stats.t_test(found)
        false += any(s != "none" for s in stats.signs_at(found.mean, stats.holm(p)))
        unadjusted += any(s != "none" for s in stats.signs(found))
    assert false / matrices <= 0.05
    assert unadjusted / matrices > 0.5


def test_an_effect_size_is_unbiased_where_cohens_is_a_third_too_large() -> None:
    draws, count, n, true = np.random.default_rng(6), 40_000, 5, 0.7
    values = draws.normal(true, 1.0, (count, n))
    found = stats.intervals(values.ravel(), np.repeat(np.arange(count), n), count)
    assert np.mean(stats.effect_size(found)) == pytest.approx(true, rel=0.02)
    assert np.mean(found.mean / found.deviation) > 1.2 * true


# ---------------------------------------------------------------- power


@given(st.floats(0.05, 3), st.integers(2, 60), st.sampled_from([0.05, 0.01, 0.05 / 32]))
def test_power_is_that_of_scipys_noncentral_t(effect: float, n: int, alpha: float) -> None:
    bound = scipy.stats.t.isf(alpha / 2, n - 1)
    expected = scipy.stats.nct(n - 1, effect * math.sqrt(n)).sf(bound)
    assert stats.t_test_power(effect, n, alpha) == pytest.approx(expected, abs=1e-6)
    assert stats.t_test_power(-effect, n, alpha) == stats.t_test_power(effect, n, alpha)


@given(st.floats(0.3, 3), st.integers(2, 12), st.sampled_from([0.05, 0.05 / 20]))
def test_seeds_to_settle_are_the_fewest_with_the_power_asked_for(
    effect: float, n: int, alpha: float
) -> None:
    found = stats.seeds_to_settle(0.01 * effect, 0.01, n, alpha=alpha, smallest=0.0)
    if found.seeds is None:
        assert stats.t_test_power(effect, stats.MOST_SEEDS, alpha) < stats.POWER
        return
    assert found.seeds > n and stats.t_test_power(effect, found.seeds, alpha) >= stats.POWER
    assert found.seeds >= stats.FIRST_SEEDS
    if found.seeds > max(n + 1, stats.FIRST_SEEDS):
        assert stats.t_test_power(effect, found.seeds - 1, alpha) < stats.POWER


def test_the_seeds_asked_for_settle_four_of_five_true_gains() -> None:
    seeds = stats.seeds_to_settle(0.02, 0.02, 3, alpha=0.01).seeds
    assert seeds is not None
    values = np.random.default_rng(7).normal(0.02, 0.02, (10_000, seeds))
    p = scipy.stats.ttest_1samp(values, 0.0, axis=1).pvalue
    assert 0.79 < np.mean(p <= 0.01) < 0.88


def test_more_seeds_are_not_asked_for_where_they_would_not_help() -> None:
    nothing, none = math.nan, None
    ask = stats.seeds_to_settle
    assert ask(0.03, nothing, 1, alpha=0.05).seeds == stats.FIRST_SEEDS
    assert ask(0.0, nothing, 2, alpha=0.05).seeds == stats.FIRST_SEEDS
    assert ask(0.03, nothing, 9, alpha=0.05) == stats.Settling(
        none, "all seeds give the same difference"
    )
    assert ask(nothing, nothing, 0, alpha=0.05).seeds is none
    small = ask(0.004, 0.01, 5, alpha=0.05)
    assert small.seeds is none and "smallest gain of interest" in small.reason
    far = ask(0.006, 0.5, 5, alpha=0.05)
    assert far.seeds is none and f"more than {stats.MOST_SEEDS}" in far.reason


# ---------------------------------------------------------------- the bootstrap


def test_a_bootstrap_interval_is_a_function_of_the_values_alone() -> None:
    values = [0.01, 0.03, -0.01, 0.02, 0.05, 0.04]
    found = stats.bca(values)
    np.random.seed(3)
    assert stats.bca(values[::-1]) == found
    assert found.low is not None and found.high is not None and found.low < found.mean < found.high
    assert stats.bca([0.1, 0.1, 0.1]).low is None and stats.bca([0.1]).low is None


def test_a_bootstrap_interval_is_scipys_but_for_the_draws() -> None:
    values = np.random.default_rng(2).exponential(1, 25)
    other = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=60_000, random_state=np.random.default_rng(0)
    ).confidence_interval
    found = stats.bca(values)
    assert found.low == pytest.approx(other.low, abs=0.02)
    assert found.high == pytest.approx(other.high, abs=0.02)


# ---------------------------------------------------------------- ranks


scores = st.integers(2, 7).flatmap(
    lambda k: st.tuples(*(st.lists(coarse, min_size=k, max_size=k) for _ in range(4)))
)


@given(scores)
def test_agreement_is_kendalls_tau_within_what_is_clear(found: tuple[list[float], ...]) -> None:
    first, second, *widths = (np.array(values) for values in found)
    sides = [
        stats.ranked(v, v - abs(w), v + abs(w))
        for v, w in zip((first, second), widths, strict=True)
    ]
    agreed = stats.agreement(*sides)
    assert agreed.low is not None and agreed.high is not None
    tau = scipy.stats.kendalltau(first, second).statistic
    assert (agreed.tau is None) == math.isnan(tau)
    if agreed.tau is not None:
        assert agreed.tau == pytest.approx(tau)
        assert agreed.low - 1e-12 <= agreed.tau <= agreed.high + 1e-12
    back = stats.agreement(*reversed(sides))
    assert (back.swapped, back.low, back.high) == (agreed.swapped, agreed.low, agreed.high)
    for i, j in agreed.swapped:
        assert (first[i] - first[j]) * (second[i] - second[j]) < 0


def test_a_swap_needs_both_devices_to_be_clear() -> None:
    pi = stats.ranked([1.0, 2.0, 3.0])
    clear = stats.ranked([2.0, 1.0, 3.0])
    noisy = stats.ranked([2.0, 1.0, 3.0], [1.4, 0.9, 2.9], [2.1, 1.6, 3.1])
    assert stats.agreement(pi, clear).swapped == ((0, 1),)
    found = stats.agreement(pi, noisy)
    assert (found.swapped, found.unclear) == ((), 1)
    assert [found.tau, found.low, found.high] == pytest.approx([1 / 3, 1 / 3, 1.0])
    assert stats.agreement(stats.ranked([1.0]), stats.ranked([2.0])).tau is None
    with pytest.raises(ValueError, match="same items"):
        stats.agreement(pi, stats.ranked([1.0]))
    with pytest.raises(ValueError, match="finite"):
        stats.ranked([1.0, math.nan])


@given(arrays(float, st.tuples(st.integers(3, 5), st.integers(3, 6)), elements=coarse))
def test_concordance_is_friedmans_statistic_on_its_scale(values: np.ndarray) -> None:
    assume((np.ptp(values, axis=1) > 0).any())
    devices, items = values.shape
    chi = scipy.stats.friedmanchisquare(*values.T).statistic
    assert stats.concordance(values) == pytest.approx(chi / (devices * (items - 1)))
    assert stats.concordance(np.tile(np.arange(items), (devices, 1))) == 1.0
