"""Power of the t test, and the number of seeds that would settle an open comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from ktbench.stats.intervals import NO_SPREAD

POWER = 0.8
"""Chance of settling a comparison for which seeds are planned."""

SMALLEST_GAIN = 0.005
"""Half a point of accuracy: an observed gain nearer zero is not worth more seeds."""

FIRST_SEEDS = 5
"""Least seeds asked for: the spread of fewer is hardly known."""

MOST_SEEDS = 200
"""Most seeds that are ever proposed: beyond, more seeds are not the way."""


def t_test_power(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided one-sample t test at `alpha` rejects, and with the right sign.

    From the noncentral t. `effect`: the true mean over the true standard deviation; n values, at
    least two.
    """
    freedom, shift = n - 1, abs(effect) * math.sqrt(n)
    bound = float(special.stdtrit(freedom, 1 - alpha / 2))
    return 1 - float(special.nctdtr(freedom, shift, bound))


@dataclass(frozen=True)
class Settling:
    """Total number of seeds that would settle a comparison, or None with the reason."""

    seeds: int | None
    reason: str = ""


def seeds_to_settle(
    mean: float,
    deviation: float,
    n: int,
    *,
    alpha: float,
    power: float = POWER,
    smallest: float = SMALLEST_GAIN,
    most: int = MOST_SEEDS,
) -> Settling:
    """Number of seeds with which a t test at `alpha` would confirm the observed paired difference.

    The least n above the present one, and at least `FIRST_SEEDS`, whose power is at least `power`
    for the observed `mean` and `deviation` (NaN where unknown). A plan and no promise: both were
    estimated from few seeds, and an effect that stood out by chance is smaller than it looks.
    Values without a known spread need `FIRST_SEEDS` first.
    """
    if n == 0:
        return Settling(None, "no pair of cells is complete")
    has_spread = math.isfinite(deviation) and deviation > NO_SPREAD
    if not has_spread and n < FIRST_SEEDS:
        return Settling(FIRST_SEEDS, f"{n} seed{'' if n == 1 else 's'} without a spread")
    if abs(mean) < smallest:
        return Settling(None, "nearer zero than the smallest gain of interest")
    if not has_spread:
        return Settling(None, "all seeds give the same difference")
    effect = abs(mean) / deviation
    if n >= most or t_test_power(effect, most, alpha) < power:
        return Settling(None, f"needs more than {most} seeds")
    low, high = max(n, 1), most  # not enough; enough
    while high - low > 1:
        middle = (low + high) // 2
        if t_test_power(effect, middle, alpha) >= power:
            high = middle
        else:
            low = middle
    return Settling(max(high, FIRST_SEEDS))
