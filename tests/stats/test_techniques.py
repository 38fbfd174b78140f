"""Technique against technique: against statsmodels, scikit-posthocs and R, and on known truth."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks._contests import FAILING, Contest, errors, pooled_false
from ktbench import stats

TABLE = np.array(
    [
        [0.712, 0.698, 0.705, 0.721, 0.709],
        [0.701, 0.689, 0.699, 0.708, 0.695],
        [0.694, 0.701, 0.690, 0.702, 0.699],
        [0.655, 0.640, 0.668, 0.661, 0.639],
    ]
)
"""Four techniques by five seeds."""

# statsmodels 0.15.0, of every pair's differences: DescrStatsW.ttest_mean and .tconfint_mean, then
# multipletests(method="holm").
P = [
    *(0.001792092852613359, 0.0425084845128611, 0.00046537758962717423),
    *(0.7787212955199898, 0.0003626108866882681, 0.0036041973614440365),
]
HOLM = [
    *(0.007168371410453436, 0.0850169690257222, 0.002326887948135871),
    *(0.7787212955199898, 0.0021756653201296084, 0.01081259208433211),
]
BOUNDS = [
    (0.006615051607651093, 0.014584948392348925),
    (0.0006457376131842173, 0.022954262386815805),
    (0.04148451929691757, 0.0713154807030823),
    (-0.009884937523933013, 0.012284937523933016),
    (0.034440301155081565, 0.0571596988449183),
    (0.024375736546892398, 0.06482426345310746),
]
# The same class: three times the least p of ttest_mean(alternative="larger") over the rivals, and
# the upper ends of tconfint_mean(alpha=2 * 0.05 / 3) against the two techniques that stay.
P_BEST = [1.0, 0.0026881392789200385, 0.06376272676929165, 0.0005439163300324021]
BEHIND = [0.001000901258889058, 0.015173223143156613, 0.024600901258889078, 0.07351736635626403]

CLASSIFIERS = np.array(
    [
        *([0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967]),
        *([0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931]),
        *([0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875]),
        *([1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669]),
        *([0.972, 0.981, 0.975, 0.975], [0.957, 0.978, 0.946, 0.970]),
    ]
)
"""Fourteen blocks by four columns, with ties."""
# scikit-posthocs 0.17.1, posthoc_nemenyi_friedman of `CLASSIFIERS`, above the diagonal.
NEMENYI = [
    *(0.08867270928888271, 0.9716864713022134, 0.06168325891240056),
    *(0.22669688602641525, 0.9988823439818528, 0.17005163566434356),
]


# ---------------------------------------------------------------- pairs


def test_all_pairs_are_statsmodels_paired_t_tests_with_holms_adjustment() -> None:
    [pairs] = stats.all_pairs([TABLE])
    assert list(zip(pairs.first, pairs.second, strict=True)) == list(combinations(range(4), 2))
    assert pairs.p == pytest.approx(P, rel=1e-10)
    assert pairs.adjusted == pytest.approx(HOLM, rel=1e-10)
    bounds = np.column_stack([pairs.interval.low, pairs.interval.high])
    assert bounds == pytest.approx(np.array(BOUNDS), rel=1e-10)
    assert pairs.sign == ["positive", "none", "positive", "none", "positive", "positive"]


def test_pairs_of_several_tables_are_one_family() -> None:
    tables = [TABLE, TABLE[::-1, :4] + 0.1]
    both = stats.all_pairs(tables)
    alone = [stats.all_pairs([table])[0] for table in tables]
    raw = np.concatenate([pairs.p for pairs in both])
    assert raw.tolist() == np.concatenate([pairs.p for pairs in alone]).tolist()
    assert np.concatenate([p.adjusted for p in both]).tolist() == stats.holm(raw).tolist()
    assert stats.all_pairs([]) == []


def test_pairs_are_taken_over_the_seeds_that_both_have() -> None:
    table = TABLE.copy()
    table[0, 1] = table[1, 4] = np.nan
    [pairs] = stats.all_pairs([table])
    shared = [0, 2, 3]
    expected = scipy.stats.ttest_rel(TABLE[0, shared], TABLE[1, shared]).pvalue
    assert pairs.p[0] == pytest.approx(expected)
    assert pairs.interval.n.tolist() == [3, 4, 4, 4, 4, 5]


def test_a_pair_without_enough_seeds_or_without_a_spread_is_not_judged() -> None:
    [two] = stats.all_pairs([TABLE[:, :2]])
    assert np.isnan(two.p).all() and set(two.sign) == {"unknown"}
    constant = np.array([[0.5] * 5, [0.4] * 5, TABLE[0]])
    [pairs] = stats.all_pairs([constant])
    assert pairs.sign[0] == "unknown" and not np.isnan(pairs.p[1:]).any()
    assert stats.best_set(constant[:2]).inside.all()
    assert not stats.best_set(constant[:2]).judged.any()


def test_a_technique_with_failed_cells_needs_five_seeds_to_be_judged() -> None:
    four = TABLE[:, :4]
    failed = [False, False, False, True]
    [pairs] = stats.all_pairs([four], [failed])
    assert np.isnan(pairs.p).tolist() == [False, False, True, False, True, True]
    assert stats.best_set(four).inside.tolist() == [True, False, True, False]
    assert stats.best_set(four, failed).inside.tolist() == [True, False, True, True]
    assert not np.isnan(stats.all_pairs([TABLE], [failed])[0].p).any()


# ---------------------------------------------------------------- letters


def _alike(letters: list[str]) -> list[list[bool]]:
    return [[bool(set(one) & set(other)) for other in letters] for one in letters]


def test_letters_are_those_of_rs_multcompview() -> None:
    # Casein, horsebean, linseed, meatmeal, soybean and sunflower, as R's package cld prints them:
    # make_cld(pairwise.wilcox.test(chickwts$weight, chickwts$feed)).
    letters = ["a", "b", "bc", "ac", "c", "a"]
    assert stats.compact_letters(range(6), ~np.array(_alike(letters))) == letters


@given(
    st.integers(1, 9).flatmap(
        lambda k: st.tuples(arrays(bool, (k, k)), st.permutations(list(range(k))))
    )
)
def test_two_items_share_a_letter_exactly_where_they_do_not_differ(
    drawn: tuple[np.ndarray, list[int]],
) -> None:
    differ, order = np.triu(drawn[0], 1), drawn[1]
    differ = differ | differ.T
    letters = stats.compact_letters(order, differ)
    assert letters is not None
    assert _alike(letters) == (~differ).tolist()
    assert "a" in letters[order[0]]


def test_letters_that_would_not_fit_the_alphabet_are_not_made() -> None:
    assert stats.compact_letters(range(60), ~np.eye(60, dtype=bool)) is None


# ---------------------------------------------------------------- the best


def test_the_best_set_is_that_of_statsmodels_one_sided_tests() -> None:
    chosen = stats.best_set(TABLE)
    assert chosen.p == pytest.approx(P_BEST, rel=1e-9)
    assert chosen.inside.tolist() == [True, False, True, False]
    assert chosen.behind == pytest.approx(BEHIND, rel=1e-9)
    assert chosen.judged.all()


@given(arrays(float, (5, 4), elements=st.integers(-8, 8).map(lambda k: k / 64)))
def test_the_technique_with_the_highest_mean_is_never_left_out(table: np.ndarray) -> None:
    chosen = stats.best_set(table)
    assert chosen.inside[table.mean(axis=1).argmax()]
    assert (chosen.behind[~chosen.inside] > 0).all()
    turned = stats.best_set(table[::-1])
    assert turned.inside.tolist() == chosen.inside.tolist()[::-1]


def test_one_technique_alone_is_its_own_best() -> None:
    alone = stats.best_set(TABLE[:1])
    assert alone.inside.tolist() == [True] and alone.behind.tolist() == [0.0]


# ---------------------------------------------------------------- ranks


def test_nemenyis_p_are_those_of_scikit_posthocs_and_the_difference_is_demsars() -> None:
    ranks = stats.mean_ranks(CLASSIFIERS)
    assert ranks.p_pairs()[np.triu_indices(4, 1)] == pytest.approx(NEMENYI, abs=1e-12)
    assert (ranks.differ == (ranks.p_pairs() <= 0.05)).all()
    assert round(ranks.critical_difference, 2) == 1.25  # Demšar, JMLR 7, 2006, section 3.2.4
    order = scipy.stats.friedmanchisquare(*CLASSIFIERS.T)
    assert ranks.p == pytest.approx(order.pvalue, abs=0.006)


@pytest.mark.parametrize("seed", range(4))
def test_friedmans_p_is_that_of_all_orders_of_a_small_table(seed: int) -> None:
    table = np.random.default_rng(seed).normal([0.0, 1.0, 2.0], 1.0, (3, 3))
    ranks = scipy.stats.rankdata(-table, axis=1)
    observed = (ranks.sum(axis=0) ** 2).sum()
    shuffled = [
        (np.sum(each, axis=0) ** 2).sum()
        for each in product(*(list(permutations(own)) for own in ranks))
    ]
    exact = np.mean(np.array(shuffled) >= observed - 1e-9)
    assert stats.mean_ranks(table).p == pytest.approx(exact, abs=0.012)


def test_ranks_need_three_students_and_techniques_without_gaps() -> None:
    for wrong in (np.ones((2, 3)), np.ones((3, 2)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="three students"):
            stats.mean_ranks(wrong)
    assert stats.mean_ranks(np.ones((3, 3))).p == 1.0


# ---------------------------------------------------------------- known truth


def judge(contest: Contest, tables: int) -> None:
    found = errors(contest, tables)
    noise = 3 * (0.05 * 0.95 / tables) ** 0.5
    assert found.false_pair <= 0.05 + noise
    assert found.held >= 0.95 - noise
    assert found.behind >= 0.95 - noise
    if contest.lead >= 2:
        assert found.beaten > 0.7


def test_in_a_few_studies_false_pairs_are_rare_and_the_best_is_in_the_set() -> None:
    judge(Contest(6, 5), 250)


@pytest.mark.slow
@pytest.mark.parametrize(
    "contest",
    [
        Contest(8, 3),
        Contest(8, 3, failing=FAILING),
        Contest(8, 5),
        Contest(8, 5, failing=FAILING),
        Contest(8, 5, lead=2.0),
        Contest(28, 5, lead=4.0),
    ],
    ids=str,
)
def test_false_pairs_are_rare_and_the_best_is_in_the_set(contest: Contest) -> None:
    judge(contest, 12_000 // contest.techniques)


@pytest.mark.slow
def test_one_variance_for_all_pairs_is_false_where_techniques_differ_in_spread() -> None:
    assert pooled_false(Contest(28, 5), 600) > 0.10
