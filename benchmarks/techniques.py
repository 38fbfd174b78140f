"""Sets of techniques that may be the best hold the best in 95 of 100 studies or more.

Simulated: nothing here is trained. Whole studies of 8 and 28 techniques with 3, 5 and 10 seeds,
whose spreads differ almost three-fold and whose seeds shift all techniques alike; also with a fifth
of all cells failed, which then count as chance. Where all techniques are equal: how often any pair
comes out different (Holm over all pairs), and how often the set leaves out the technique that it
leaves out most. Where one technique leads: how often the set holds it, how many of the others it
leaves out, and how many pairs are found. The unit is the standard deviation of a paired difference.
"""

from __future__ import annotations

import os
from itertools import product

from benchmarks._claim import Outcome
from benchmarks._contests import (
    FAILING,
    Contest,
    Errors,
    errors,
    false_ranks,
    held_against_gamblers,
    pooled_false,
)

FALSE, HELD = 0.05, 0.95
TABLES = int(os.environ.get("KTBENCH_TABLES", "4000"))
RANKED = max(TABLES // 5, 1)
TECHNIQUES, SEEDS, LEADS = (8, 28), (3, 5, 10), (1.0, 2.0, 4.0)


def _line(name: str, told: Errors) -> str:
    figures = (told.false_pair, told.held, told.behind, told.beaten, told.found_pairs)
    return f"{name:<44}" + "".join(f"{figure:>10.1%}" for figure in figures)


def run() -> Outcome:
    """Every table, with the number of simulations behind it."""
    print(f"of {TABLES:,} simulated studies each")
    heads = ("false pair", "best held", "bounds", "left out", "pairs")
    print(f"{'':<44}" + "".join(f"{head:>10}" for head in heads))
    judged = []
    for techniques, seeds, failing in product(TECHNIQUES, SEEDS, (0.0, FAILING)):
        words = f"{techniques} equal techniques, {seeds} seeds"
        words += f", {failing:.0%} failed" if failing else ""
        judged.append(errors(Contest(techniques, seeds, failing=failing), TABLES))
        print(_line(words, judged[-1]))
    for techniques, seeds, lead in product(TECHNIQUES, SEEDS, LEADS):
        words = f"{techniques} techniques, {seeds} seeds, one leads by {lead:g}"
        judged.append(errors(Contest(techniques, seeds, lead), TABLES))
        print(_line(words, judged[-1]))
    for techniques, seeds in product(TECHNIQUES, (5, 10)):
        words = f"{techniques} techniques, {seeds} seeds, leads by 4, {FAILING:.0%} failed"
        judged.append(errors(Contest(techniques, seeds, 4.0, FAILING), TABLES))
        print(_line(words, judged[-1]))
    ranks = _ranks()
    _limits()
    false = max(e.false_pair for e in judged)
    held = min(e.held for e in judged)
    bounds = min(e.behind for e in judged)
    noise, of_ranks = (3 * (HELD * FALSE / tables) ** 0.5 for tables in (TABLES, RANKED))
    return Outcome(
        f"best held in {held:.1%} or more, bounds in {bounds:.1%}; false pairs in {false:.1%}, "
        f"false ranks in {ranks:.1%}",
        f"at least {HELD:.0%}; at most {FALSE:.0%}, within {noise:.1%} of the simulation",
        min(held, bounds) >= HELD - noise and false <= FALSE + noise and ranks <= FALSE + of_ranks,
    )


def _ranks() -> float:
    """Ranks over students where all techniques are equal; the largest share of false answers."""
    shares = []
    for students, techniques in product((3, 6), TECHNIQUES):
        friedman, nemenyi = false_ranks(students, techniques, RANKED)
        shares += [friedman, nemenyi]
        words = f"{techniques} equal techniques ranked on {students} students, of {RANKED:,}:"
        print(f"{words} a false answer by Friedman {friedman:.1%}, by Nemenyi {nemenyi:.1%}")
    return max(shares)


def _limits() -> None:
    """What a shared variance would do, and what no test of the seeds that ran can see."""
    for techniques in TECHNIQUES:
        share = pooled_false(Contest(techniques, 5), TABLES)
        print(f"a false pair by one variance for all pairs, {techniques} equal: {share:.1%}")
    for seeds in SEEDS:
        failing = [0.0, *[FAILING] * 7]
        risky = Contest(8, seeds, -4.0, failing=failing)
        share = held_against_gamblers(risky, TABLES)
        rivals = f"7 rivals 4 better that fail in {FAILING:.0%}"
        print(f"best held, {rivals}, {seeds} seeds: {share:.1%}")
