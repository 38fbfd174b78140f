"""Intervals that say 95 % hold the truth in 93 to 97 of 100; a table has a false sign in 5 at most.

Simulated: nothing here is trained. Paired gains are drawn whose true mean is known, normal and,
for what skew does, exponential; Student's t interval, which decides, and the bootstrap's, which is
shown beside it where there are many seeds. Then whole tables of 32 comparisons, 5 seeds each, in
which nothing differs: how many have any sign, by Holm's rule and by single intervals. Then studies
of training efficiency in five budgets with a known speedup. The bar is for what the report decides
by: t intervals of normal gains, speedups, and Holm's signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks._claim import Outcome
from benchmarks._simulated import BUDGETS, PLAIN, STEP_COST, TAUGHT, null_table, pairs
from ktbench import stats
from ktbench.stats import Floats, speedup

LEAST, MOST, FALSE = 0.93, 0.97, 0.05
SEEDS = (5, 10, 20)
SAMPLES, RESAMPLED, TABLES, STUDIES = 20_000, 4_000, 10_000, 4_000
COMPARISONS, TABLE_SEEDS = 32, 5
QUALITIES = np.array([0.60, 0.635, 0.66])

Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
_DRAWS: dict[str, Draw] = {  # each of mean 1
    "normal": lambda rng, size: rng.normal(1.0, 1.0, size),
    "exponential": lambda rng, size: rng.exponential(1.0, size),
}


def _t(draw: Draw, n: int) -> float:
    values = draw(np.random.default_rng(n), (SAMPLES, n))
    found = stats.intervals(values.ravel(), np.repeat(np.arange(SAMPLES), n), SAMPLES)
    return float(np.mean((found.low <= 1) & (found.high >= 1)))


def _holds(found: stats.Interval, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def _bca(draw: Draw, n: int) -> float:
    values = draw(np.random.default_rng(n), (RESAMPLED, n))
    found = [stats.bca(one) for one in values]
    return float(np.mean([_holds(f, 1.0) for f in found]))


def _rows() -> Iterator[tuple[str, list[float]]]:
    for name, draw in _DRAWS.items():
        yield f"{name} gains, Student's t", [_t(draw, n) for n in SEEDS]
        yield f"{name} gains, BCa bootstrap", [_bca(draw, n) for n in SEEDS]


def _false_signs() -> tuple[float, float]:
    """The shares of tables with a false sign: by Holm's rule, by single intervals."""
    draws, groups = np.random.default_rng(5), np.repeat(np.arange(COMPARISONS), TABLE_SEEDS)
    together = alone = 0
    for _ in range(TABLES):
        values = null_table(draws, COMPARISONS, TABLE_SEEDS)
        found = stats.intervals(values.ravel(), groups, COMPARISONS)
        signs = stats.signs_at(found.mean, stats.holm(stats.t_test(found)))
        together += any(sign != "none" for sign in signs)
        alone += any(sign != "none" for sign in stats.signs(found))
    return together / TABLES, alone / TABLES


def _speedups(seeds: int) -> float:
    plain = speedup.Runs(BUDGETS[None], PLAIN[None])
    taught = speedup.Runs(STEP_COST * BUDGETS[None], TAUGHT[None])
    known = speedup.speedup(plain, taught, QUALITIES).value
    found = [speedup.speedup(*p, QUALITIES) for p in pairs(seeds, STUDIES, TAUGHT, STEP_COST)]
    return float(np.mean([(c.low <= known) & (known <= c.high) for c in found]))


def _headlines() -> tuple[float, float, float]:
    """Simulate no gain: the median headline, and how often its intervals hold the truth.

    First the plain interval at the largest ratio, then the headline's own.
    """
    values, plain, allowed = [], [], []
    for baseline, method in pairs(TABLE_SEEDS, STUDIES, PLAIN, 1.0):
        head = speedup.headline(baseline, method)
        if head is None:
            continue
        curve = speedup.speedup(baseline, method, [head.q])
        values.append(head.value)
        plain.append(curve.low[0] <= 1 <= curve.high[0])
        allowed.append(head.low <= 1 <= head.high)
    return float(np.median(values)), float(np.mean(plain)), float(np.mean(allowed))


def run() -> Outcome:
    """Every table, with the number of simulations behind it."""
    print(f"95 % intervals that hold the true mean, of {SAMPLES:,} (bootstrap: {RESAMPLED:,})")
    print(f"{'':<32}" + "".join(f"{f'n = {n}':>10}" for n in SEEDS))
    judged = []
    for name, shares in _rows():
        print(f"{name:<32}" + "".join(f"{share:>10.1%}" for share in shares))
        if name == "normal gains, Student's t":
            judged += shares
    together, alone = _false_signs()
    print(f"tables of {COMPARISONS} comparisons, {TABLE_SEEDS} seeds, no difference: of {TABLES:,}")
    print(f"  with a false sign by Holm's rule {together:.1%}, by single intervals {alone:.1%}")
    covered = {n: _speedups(n) for n in (3, 5, 10)}
    told = ", ".join(f"{n} seeds {share:.1%}" for n, share in covered.items())
    print(f"speedups within their 95 % interval, of {STUDIES:,} studies each: {told}")
    judged += covered.values()
    value, plain, allowed = _headlines()
    print(f"the largest speedup where nothing is gained, {TABLE_SEEDS} seeds: {value:.2f} (median)")
    print(f"  1 within its plain interval {plain:.1%}, within the widened one {allowed:.1%}")
    return Outcome(
        f"{min(judged):.1%} to {max(judged):.1%}; false signs in {together:.1%} of tables",
        f"{LEAST:.0%} to {MOST:.0%}; at most {FALSE:.0%}",
        min(judged) >= LEAST and max(judged) <= MOST and together <= FALSE,
    )
