"""Simulated studies whose truth is known: trainings in five budgets, and tables of gains."""

from __future__ import annotations

import numpy as np

from ktbench.stats import Floats
from ktbench.stats.speedup import Runs

BUDGETS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
PLAIN = np.array([0.50, 0.58, 0.64, 0.68, 0.70])
TAUGHT = np.array([0.54, 0.63, 0.69, 0.72, 0.735])
STEP_COST = 1.3
"""Cost of a step with a teacher, in steps without."""
SHARED = 0.2
"""Share of a gain's spread that comes from the baseline, which all methods of a seed share."""


def simulated(
    rng: np.random.Generator, seeds: int, budgets: Floats, quality: Floats, shared: Floats
) -> Runs:
    """Runs around a known curve; `shared` (S,) is what both sides of a seed have in common."""
    cost = budgets * np.exp(rng.normal(0, 0.02, (seeds, len(budgets))))
    return Runs(cost, quality + shared[:, None] + rng.normal(0, 0.004, cost.shape))


def pairs(seeds: int, times: int, taught: Floats, cost: float) -> list[tuple[Runs, Runs]]:
    """`times` studies of `PLAIN` against `taught`, whose steps cost `cost` times as much."""
    rng = np.random.default_rng(20)
    found = []
    for _ in range(times):
        shared = rng.normal(0, 0.01, seeds)
        baseline = simulated(rng, seeds, BUDGETS, PLAIN, shared)
        found.append((baseline, simulated(rng, seeds, cost * BUDGETS, taught, shared)))
    return found


def null_table(rng: np.random.Generator, comparisons: int, seeds: int) -> Floats:
    """The gains of one table in which nothing differs, of variance 1: (comparisons, seeds)."""
    shared = rng.normal(0, SHARED**0.5, (1, seeds))
    return rng.normal(0, (1 - SHARED) ** 0.5, (comparisons, seeds)) - shared
