"""Gains in which failed seeds count at chance level, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from ktbench import stats
from ktbench.stats import Floats


def _judged(
    treated: list[float | None],
    plain: list[float | None],
    chance: float = 0.1,
    level: float = stats.LEVEL,
) -> stats.Judgement:
    """One comparison; None marks a failed training."""
    failed = [np.array([v is None for v in side]) for side in (treated, plain)]
    values = [np.array([chance if v is None else v for v in side]) for side in (treated, plain)]
    group = np.zeros(len(treated), dtype=int)
    pairs = stats.Pairs(group, *values, *failed, np.full(len(treated), chance))
    return stats.judge_by_intention(pairs, 1, level)


PLAIN: list[float | None] = [0.60, 0.61, 0.59, 0.605, 0.60]


def test_a_failed_seed_counts_at_chance_and_a_missing_one_stays_missing() -> None:
    counted: Floats = stats.intention_to_treat([0.8, np.nan, np.nan], [False, True, False], 0.25)
    assert counted[:2].tolist() == [0.8, 0.25]
    assert np.isnan(counted[2])


@pytest.mark.parametrize("level", [0.95, 0.998])
def test_wilsons_interval_is_scipys(level: float) -> None:
    failures = np.arange(6)
    low, high = stats.wilson(failures, 5, level)
    for number in failures.tolist():
        expected = scipy.stats.binomtest(number, 5).proportion_ci(level, method="wilson")
        assert (low[number], high[number]) == pytest.approx((expected.low, expected.high))


GOOD: list[float | None] = [0.62, 0.63, 0.61, 0.62, 0.62]


def test_without_failures_it_is_the_paired_t_test() -> None:
    judged = _judged(GOOD, PLAIN)
    expected = scipy.stats.ttest_rel(np.array(GOOD, float), np.array(PLAIN, float))
    bounds = expected.confidence_interval(0.95)
    assert judged.p[0] == pytest.approx(expected.pvalue)
    assert (judged.low[0], judged.high[0]) == pytest.approx((bounds.low, bounds.high))
    assert judged.risk_low[0] < -0.2  # 43 % of failures are not excluded by five seeds
    assert judged.risk_high[0] == pytest.approx(judged.high[0])


def test_two_failures_of_five_are_no_proof_and_five_of_five_are() -> None:
    judged = {k: _judged([None] * k + GOOD[k:], PLAIN) for k in (2, 4, 5)}
    two = judged[2]
    assert two.mean[0] == pytest.approx(-0.19, abs=0.01)
    assert two.arrived.mean[0] == pytest.approx(0.0183, abs=0.001)
    assert two.low[0] < two.mean[0] < 0 < two.high[0]
    assert two.p[0] > 0.05 > judged[4].p[0] > 0.001 > judged[5].p[0]
    assert judged[5].high[0] < 0
    assert two.risk_high[0] < 0  # were no transfer known never to fail


def test_a_baseline_that_fails_counts_for_the_method() -> None:
    judged = _judged(GOOD, [None, *PLAIN[1:]])
    assert judged.baseline_failed[0] == 1
    assert judged.mean[0] > 0.1
    assert judged.low[0] < 0 < judged.high[0]


def test_p_is_the_level_at_which_the_interval_meets_zero() -> None:
    treated = [None, None, None, None, 0.63]
    p = float(_judged(treated, PLAIN).p[0])
    inside, outside = (_judged(treated, PLAIN, level=1 - p * by) for by in (0.98, 1.02))
    assert inside.low[0] < 0 < inside.high[0]
    assert outside.high[0] < 0


def test_two_seeds_give_no_p_whatever_they_show() -> None:
    assert np.isnan(_judged(GOOD[:2], PLAIN[:2]).p[0])
    assert np.isnan(_judged([None, None], PLAIN[:2]).p[0])
    assert not np.isnan(_judged(GOOD[1:4], PLAIN[1:4]).p[0])


def test_what_five_seeds_without_a_failure_do_not_exclude() -> None:
    assert stats.rare_failures(5) == pytest.approx(0.4507, abs=1e-4)
    assert stats.seeds_to_exclude(0.2) == 14
    assert stats.rare_failures(14) < 0.2 < stats.rare_failures(13)
