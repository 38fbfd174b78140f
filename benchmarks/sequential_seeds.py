"""Seeds added only where they decide: at most 5 % of tables err, at most half the seeds are spent.

Simulated: nothing here is trained. A table has 28 comparisons, seven techniques of four students;
those of a student share its seeds of no transfer. Every comparison is judged after every seed from
the third to the twentieth (`ktbench.stats.sequential`) and stops when it is decided or hopeless.
Beside it the plain way: 20 seeds of everything, read once (Student's t, Holm). First tables in
which nothing differs: how many have any sign, also for a reader who tests at 5 % after every seed.
Then tables in which half of the effects are zero and half lie between one and four standard
deviations: the trainings spent, and how often both ways give a comparison the same sign. Last,
where the saving ends: tables in which every effect is one standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks._claim import Outcome
from benchmarks._simulated import SHARED
from ktbench import stats
from ktbench.stats import Floats, SeedRule, Standing, sequential
from ktbench.stats.intervals import Intervals

FALSE, SPENT = 0.05, 0.5
STUDENTS, TECHNIQUES = 4, 7
COMPARISONS = STUDENTS * TECHNIQUES
NULL_TABLES, TABLES = 10_000, 1_000
RULE = SeedRule()


def table(rng: np.random.Generator, effects: Floats) -> Floats:
    """Differences of variance 1 by seed, (comparisons, seeds), around the true effects."""
    shared = rng.normal(0, SHARED**0.5, (STUDENTS, RULE.most))
    own = rng.normal(0, (1 - SHARED) ** 0.5, (COMPARISONS, RULE.most))
    return own - np.repeat(shared, TECHNIQUES, axis=0) + effects[:, None]


def after(values: Floats, n: np.ndarray) -> Intervals:
    """Return the first n (K,) values of each comparison as means and deviations."""
    kept = np.arange(values.shape[1])[None, :] < n[:, None]
    group = np.repeat(np.arange(len(values)), n)
    return stats.intervals(values[kept], group, len(values))


def race(values: Floats, rule: SeedRule) -> tuple[np.ndarray, Standing]:
    """Add seeds until nothing is open; return how many each comparison got."""
    n = np.full(len(values), rule.start)
    while True:
        standing = sequential.standing(after(values, n), rule)
        waiting = np.array([state == "open" for state in standing.states])
        if not waiting.any():
            return n, standing
        n = n + waiting


def trainings(n: np.ndarray) -> int:
    """Trainings of all techniques, and of no transfer for the longest of each student's."""
    return int(n.sum() + n.reshape(STUDENTS, TECHNIQUES).max(axis=1).sum())


def read_once(values: Floats) -> Floats:
    """Return the signs of the plain way: all seeds, Student's t, Holm."""
    whole = after(values, np.full(len(values), RULE.most))
    return np.sign(whole.mean) * (stats.holm(stats.t_test(whole)) <= 1 - RULE.level)


def _signs(standing: Standing) -> Floats:
    return np.array([{"positive": 1.0, "negative": -1.0}.get(s, 0.0) for s in standing.sign])


def _read_at_every_seed(values: Floats) -> bool:
    """Whether a plain test with Holm's rule, read after every seed, ever gives a sign."""
    n = np.arange(1, RULE.most + 1)
    mean = values.cumsum(axis=1) / n
    squares = np.square(values).cumsum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt((squares - n * np.square(mean)) / (n - 1))
        p = 2 * special.stdtr(np.maximum(n - 1, 1), -np.abs(mean) / deviation * np.sqrt(n))
    smallest = p[:, RULE.start - 1 :].min(axis=0)
    return bool((smallest <= (1 - RULE.level) / COMPARISONS).any())


@dataclass(frozen=True)
class _World:
    """Figures over many tables of one kind."""

    spent: float
    same: float
    decided: float
    decided_once: float


def _world(rng: np.random.Generator, smallest: float, largest: float, zero: float) -> _World:
    spent, same, decided, once = 0, [], [], []
    for _ in range(TABLES):
        size = rng.uniform(smallest, largest, COMPARISONS) * rng.choice([-1, 1], COMPARISONS)
        effects = np.where(rng.random(COMPARISONS) < zero, 0.0, size)
        values = table(rng, effects)
        n, standing = race(values, RULE)
        spent += trainings(n)
        there = np.abs(effects) >= 1
        signs, plain = _signs(standing)[there], read_once(values)[there]
        same += [*(signs == plain)]
        decided += [*(signs != 0)]
        once += [*(plain != 0)]
    whole = TABLES * trainings(np.full(COMPARISONS, RULE.most))
    return _World(spent / whole, *(float(np.mean(each)) for each in (same, decided, once)))


def run() -> Outcome:
    """Print the errors, and the trainings spent."""
    rng = np.random.default_rng(17)
    wrong, naive, spent = 0, 0, 0
    for _ in range(NULL_TABLES):
        values = table(rng, np.zeros(COMPARISONS))
        n, standing = race(values, RULE)
        wrong += any(sign != "none" for sign in standing.sign)
        naive += _read_at_every_seed(values)
        spent += trainings(n)
    false, careless = wrong / NULL_TABLES, naive / NULL_TABLES
    whole = NULL_TABLES * trainings(np.full(COMPARISONS, RULE.most))
    print(f"{NULL_TABLES:,} tables of {COMPARISONS} comparisons without any effect")
    print(f"  any sign: {false:.1%}; with Holm's test at every seed: {careless:.1%}")
    print(f"  trainings spent, of those of {RULE.most} seeds: {spent / whole:.0%}")
    mixed, small = _world(rng, 1, 4, 0.5), _world(rng, 1, 1, 0.0)
    for name, world in (("half zero, half 1 to 4", mixed), ("all 1", small)):
        print(f"effects in standard deviations: {name} ({TABLES:,} tables)")
        print(f"  trainings spent: {world.spent:.0%}; of the effects of 1 and more")
        print(f"  the same sign as with {RULE.most} seeds: {world.same:.1%}")
        print(f"  decided: {world.decided:.1%}, with {RULE.most} seeds {world.decided_once:.1%}")
    return Outcome(
        f"{false:.1%} of tables err; {mixed.spent:.0%} of the seeds, {mixed.same:.1%} same signs",
        f"at most {FALSE:.0%}; at most {SPENT:.0%}",
        false <= FALSE and mixed.spent <= SPENT,
    )
