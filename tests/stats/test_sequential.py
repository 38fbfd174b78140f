"""Comparisons judged after every seed: e-values, closed testing, and when seeds go on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate

from benchmarks.sequential_seeds import race, table
from ktbench import stats
from ktbench.stats import SeedRule, sequential
from ktbench.stats.intervals import Floats, Intervals


def _groups(values: list[list[float]]) -> Intervals:
    flat = [value for row in values for value in row]
    group = [number for number, row in enumerate(values) for _ in row]
    return stats.intervals(flat, group, len(values))


def _likelihood(values: Floats, variance: float) -> float:
    """Integrate normal likelihoods over 1/σ and, with a variance, over normal effects."""

    def given(log_sigma: float, effect: float) -> float:
        sigma = np.exp(log_sigma)
        scaled = values / sigma - effect
        return float(np.exp(-np.square(scaled).sum() / 2) * sigma ** -len(values))

    if not variance:
        return float(integrate.quad(lambda s: given(s, 0.0), -8, 8)[0])

    def weighted(log_sigma: float, effect: float) -> float:
        prior = np.exp(-(effect**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return given(log_sigma, effect) * float(prior)

    spread = 9 * np.sqrt(variance)
    return float(integrate.dblquad(weighted, -spread, spread, -6, 6)[0])


@pytest.mark.slow
@pytest.mark.parametrize("values", [[0.4, 1.3], [1.0, 0.8, 1.4, 0.2], [-0.3, 0.5, -0.9]])
def test_the_e_value_is_the_ratio_of_the_integrated_likelihoods(values: list[float]) -> None:
    array = np.array(values)
    ratio = _likelihood(array, sequential.EFFECT_VARIANCE) / _likelihood(array, 0.0)
    assert sequential.log_e_value(_groups([values]))[0] == pytest.approx(np.log(ratio), abs=1e-5)


def test_an_e_value_has_expectation_one_without_an_effect_and_knows_no_scale() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(0, 7.0, (200_000, 3))
    log_e = sequential.log_e_value(_several(draws))
    assert np.exp(log_e).mean() == pytest.approx(1, abs=0.02)
    assert sequential.log_e_value(_several(draws * 1e-4)) == pytest.approx(log_e, abs=1e-8)


def _several(draws: Floats) -> Intervals:
    count, n = draws.shape
    return stats.intervals(draws.ravel(), np.repeat(np.arange(count), n), count)


def test_without_a_spread_or_with_one_seed_there_is_no_evidence() -> None:
    groups = _groups([[0.1], [0.1, 0.1, 0.1]])
    assert np.isnan(sequential.log_e_value(groups)).all()
    low, high = sequential.anytime_interval(groups, 0.05)
    assert np.isinf(low).all() and np.isinf(high).all()
    assert sequential.standing(groups, SeedRule()).states == ["open", "open"]


def test_the_interval_ends_where_the_e_value_excludes_a_mean() -> None:
    groups = _groups([[0.9, 1.4, 1.1, 1.2, 0.8, 1.0, 1.3]])
    low, high = sequential.anytime_interval(groups, 0.05)
    for bound in (low, high):
        assert sequential.log_e_value(groups, bound)[0] == pytest.approx(np.log(20))
    assert low[0] < groups.low[0] < groups.high[0] < high[0]  # wider than one that is read once
    assert np.isinf(sequential.anytime_interval(_groups([[1.0, 2.0]]), 0.05)[0]).all()


def test_closed_testing_averages_with_the_worst_set_of_others() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        log_e = rng.normal(1, 3, 6)
        plain = np.exp(log_e)
        expected = [
            min(
                np.mean([plain[k], *(plain[j] for j in others)])
                for size in range(6)
                for others in combinations([j for j in range(6) if j != k], size)
            )
            for k in range(6)
        ]
        assert sequential.closed_evidence(log_e) == pytest.approx(np.log(expected))
    corrected = sequential.closed_evidence([np.nan, 5.0])
    assert np.isnan(corrected[0]) and corrected[1] == pytest.approx(np.log((np.exp(5) + 1) / 2))


def test_a_large_effect_is_decided_early_and_a_small_one_is_given_up() -> None:
    rule = SeedRule(start=3, most=20)
    large = [0.10, 0.11, 0.095, 0.105, 0.1, 0.102, 0.098, 0.107]
    none = [0.01, -0.012, 0.004, -0.006, 0.011, -0.009, 0.002, 0.001]
    standing = sequential.standing(_groups([large, none]), rule)
    assert standing.states == ["decided", "hopeless"]
    assert standing.sign == ["positive", "none"]
    first = sequential.standing(_groups([large[:2], none[:2]]), rule)
    assert first.states == ["open", "open"]  # nothing is decided below three seeds


def test_the_last_seed_is_judged_by_students_t_and_holms_rule() -> None:
    spread = np.linspace(-1, 1, 20)
    groups = _groups([list(spread + 0.42), list(spread + 0.1)])
    standing = sequential.standing(groups, SeedRule())
    p = stats.t_test(groups)
    assert 2 * p[0] <= SeedRule().last < p[1]
    early = np.log(2 / SeedRule().early)
    assert standing.evidence[0] < early  # its e-value alone would not decide
    assert standing.states == ["decided", "exhausted"] and standing.sign == ["positive", "none"]


def test_what_has_ended_for_other_reasons_is_not_asked_for_more() -> None:
    groups = _groups([[0.3, 0.1, 0.5, 0.2]])
    assert sequential.standing(groups, SeedRule()).states == ["open"]
    assert sequential.standing(groups, SeedRule(), np.array([True])).states == ["exhausted"]


@pytest.mark.parametrize("start, most", [(1, 5), (4, 3)])
def test_a_rule_that_cannot_be_is_refused(start: int, most: int) -> None:
    with pytest.raises(ValueError, match="start must be"):
        SeedRule(start=start, most=most)


@pytest.mark.slow
def test_tables_without_an_effect_rarely_have_a_sign_however_often_they_are_read() -> None:
    rng = np.random.default_rng(11)
    wrong = sum(
        any(sign != "none" for sign in race(table(rng, np.zeros(28)), SeedRule())[1].sign)
        for _ in range(400)
    )
    assert wrong / 400 <= 0.06
