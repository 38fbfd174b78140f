"""With a fifth of all seeds failing, intervals hold 93 to 97 in 100 true gains, 5 % of tables err.

Simulated: nothing here is trained. Accuracies of a student with ten classes are drawn seed by seed,
a share of the trainings fails and counts at chance level (0.1), and the true gain by intention to
treat is known. Two worlds: a seed fails on both sides alike (bad luck of the training), or with the
technique alone. Intervals: the report's, the same with the risk of failures not seen, and Student's
t of the counted accuracies, which five seeds with two humps defeat. Then whole tables in which no
technique differs from no transfer: how many have any sign by Holm's rule. Then the bound: how often
n seeds show no failure, and a gain of those that finished passes for one of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks._claim import Outcome
from benchmarks._simulated import null_table
from ktbench import stats
from ktbench.stats import Floats

LEAST, MOST, FALSE = 0.93, 0.97, 0.05
SHARE = 0.2
SEEDS = (3, 5, 10, 14, 20)
JUDGED_FROM = 5
"""Seeds from which the bar is for: three have next to no spread to go by."""
STUDIES, TABLES, TABLES_FAILING, COMPARISONS = 20_000, 10_000, 2_000, 32
CHANCE, PLAIN, GAIN = 0.1, 0.6, 0.02
_SEED_SPREAD, _GAIN_SPREAD = 0.007, 0.01


@dataclass(frozen=True)
class World:
    """Shares of trainings that fail."""

    treated: float
    baseline: float

    @property
    def gain(self) -> float:
        """The true gain by intention to treat, where the one of seeds that finish is `GAIN`."""
        return self.of(GAIN)

    def of(self, gain: float) -> float:
        """The true gain by intention to treat."""
        treated = (1 - self.treated) * (PLAIN + gain) + self.treated * CHANCE
        return treated - ((1 - self.baseline) * PLAIN + self.baseline * CHANCE)


BOTH, ALONE = World(SHARE, SHARE), World(SHARE, 0.0)


def drawn(
    rng: np.random.Generator, world: World, studies: int, n: int, gain: float = GAIN
) -> stats.Pairs:
    """`studies` groups of n pairs each, every one with a baseline of its own."""
    baseline = PLAIN + rng.normal(0, _SEED_SPREAD, (studies, n))
    return _failing(rng, world, baseline, rng.normal(gain, _GAIN_SPREAD, (studies, n)))


def table(rng: np.random.Generator, share: float, n: int) -> stats.Pairs:
    """One table in which nothing differs: all comparisons have the baseline in common."""
    baseline = PLAIN + rng.normal(0, _SEED_SPREAD, (1, n)) + np.zeros((COMPARISONS, 1))
    failed = np.repeat(rng.random((1, n)) < share, COMPARISONS, axis=0)
    gains = _GAIN_SPREAD * null_table(rng, COMPARISONS, n)
    return _failing(rng, World(share, 0.0), baseline, gains, failed)


def _failing(
    rng: np.random.Generator,
    world: World,
    baseline: Floats,
    gains: Floats,
    baseline_failed: stats.Bools | None = None,
) -> stats.Pairs:
    failed = [rng.random(gains.shape) < share for share in (world.treated, world.baseline)]
    failed[1] = failed[1] if baseline_failed is None else baseline_failed
    sides = [
        stats.intention_to_treat(side, lost, CHANCE).ravel()
        for side, lost in zip((baseline + gains, baseline), failed, strict=True)
    ]
    group = np.repeat(np.arange(gains.shape[0]), gains.shape[1])
    return stats.Pairs(
        group, sides[0], sides[1], failed[0].ravel(), failed[1].ravel(), np.full(len(group), CHANCE)
    )


Bounds = tuple[Floats, Floats]


def _shown(pairs: stats.Pairs, judged: stats.Judgement) -> Bounds:
    return judged.low, judged.high


def _with_risk(pairs: stats.Pairs, judged: stats.Judgement) -> Bounds:
    return judged.risk_low, judged.risk_high


def _students_t(pairs: stats.Pairs, judged: stats.Judgement) -> Bounds:
    plain = stats.intervals(pairs.treated - pairs.baseline, pairs.group, len(judged.n))
    return plain.low, plain.high


Rule = Callable[[stats.Pairs, stats.Judgement], Bounds]


def coverage(world: World, rule: Rule, n: int, studies: int = STUDIES) -> float:
    """Share of studies whose interval holds the true gain by intention to treat."""
    pairs = drawn(np.random.default_rng(n), world, studies, n)
    low, high = rule(pairs, stats.judge_by_intention(pairs, studies))
    return float(np.mean((low <= world.gain) & (world.gain <= high)))


def false_signs(share: float, n: int, tables: int) -> float:
    """Share of tables with any sign, where techniques and no transfer fail and gain alike."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(tables):
        judged = stats.judge_by_intention(table(rng, share, n), COMPARISONS)
        wrong += bool((stats.holm(judged.p) <= 1 - stats.LEVEL).any())
    return wrong / tables


def undone(n: int, studies: int = STUDIES) -> tuple[float, float]:
    """Where failures undo the gain exactly: how often a gain is clear, and when none was seen."""
    gain = SHARE * (PLAIN - CHANCE) / (1 - SHARE)
    pairs = drawn(np.random.default_rng(n), ALONE, studies, n, gain)
    judged = stats.judge_by_intention(pairs, studies)
    clear = (judged.p <= 1 - stats.LEVEL) & (judged.mean > 0)
    return float(clear.mean()), float((judged.failed == 0).mean())


_ROWS: tuple[tuple[str, World, Rule], ...] = (
    ("both sides fail: the report's interval", BOTH, _shown),
    ("both sides fail: Student's t", BOTH, _students_t),
    ("technique alone fails: with unseen risk", ALONE, _with_risk),
    ("technique alone fails: the report's", ALONE, _shown),
    ("technique alone fails: Student's t", ALONE, _students_t),
)
_JUDGED = (_ROWS[0][0], _ROWS[2][0])
"""Rows that the bar is for."""


def run() -> Outcome:
    """Every table, with the number of simulations behind it."""
    print(f"{SHARE:.0%} of the trainings fail; 95 % intervals that hold the true gain by intention")
    print(f"to treat, of {STUDIES:,} studies each")
    print(f"{'':<42}" + "".join(f"{f'n = {n}':>9}" for n in SEEDS))
    judged = []
    for name, world, rule in _ROWS:
        shares = [coverage(world, rule, n) for n in SEEDS]
        bar = [share for n, share in zip(SEEDS, shares, strict=True) if n >= JUDGED_FROM]
        judged += bar if name in _JUDGED else []
        print(f"{name:<42}" + "".join(f"{share:>9.1%}" for share in shares))
    print(f"tables of {COMPARISONS} comparisons without any difference that have a false sign")
    worst = 0.0
    for share, tables in ((0.0, TABLES), (SHARE, TABLES_FAILING)):
        rates = {n: false_signs(share, n, tables) for n in (3, 5, 10)}
        worst = max(worst, *rates.values())
        told = ", ".join(f"{n} seeds {rate:.1%}" for n, rate in rates.items())
        print(f"  {share:.0%} of all trainings fail, of {tables:,} tables: {told}")
    print("a technique whose failures undo its gain exactly (it alone fails): n seeds that")
    for n in SEEDS:
        clear, unseen = undone(n)
        print(f"  n = {n:<3} show a clear gain {clear:.1%}, show no failure {unseen:.1%}")
    print(f"seeds without a failure that exclude {SHARE:.0%}: {stats.seeds_to_exclude(SHARE)}")
    return Outcome(
        f"{min(judged):.1%} to {max(judged):.1%}; false signs in {worst:.1%} of tables at most",
        f"{LEAST:.0%} to {MOST:.0%}; at most {FALSE:.0%}",
        min(judged) >= LEAST and max(judged) <= MOST and worst <= FALSE,
    )
