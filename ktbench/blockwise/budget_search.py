"""Chooses one option per block with the greatest sum of scores that a budget allows.

This is a multiple-choice knapsack, solved exactly as an integer programme. All searches of this
kind assume that the effects of blocks on a network add up (LANA, Molchanov et al., arXiv
2107.10624, section 3.3; Puzzle, Bercovich et al., arXiv 2411.19146, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

SLACK = 1e-9
"""Share of a budget by which sums of floats may exceed it."""

Choice = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to fill a block; both add up over blocks."""

    cost: float
    score: float


def total(blocks: Sequence[Sequence[Option]], choice: Choice) -> Option:
    """Sum a choice's costs and scores over the blocks."""
    picked = [options[number] for options, number in zip(blocks, choice, strict=True)]
    return Option(sum(o.cost for o in picked), sum(o.score for o in picked))


def choose(
    blocks: Sequence[Sequence[Option]], budget: float, *, without: Sequence[Choice] = ()
) -> Choice | None:
    """Return the choice with the greatest sum of scores that costs at most the budget.

    A choice is the number of one option per block. Choices of `without` are left out. None where
    nothing is left.
    """
    excluded = list(without)
    while True:
        choice = _solved(blocks, budget, excluded)
        if choice is None or total(blocks, choice).cost <= budget + SLACK * abs(budget):
            return choice
        excluded.append(choice)  # beyond the budget by no more than the solver's own tolerance


def best_choices(blocks: Sequence[Sequence[Option]], budget: float, count: int) -> Iterator[Choice]:
    """Yield up to `count` choices within a budget, by falling sum of scores."""
    choices: list[Choice] = []
    while len(choices) < count:
        choice = choose(blocks, budget, without=choices)
        if choice is None:
            return
        choices.append(choice)
        yield choice


def _solved(
    blocks: Sequence[Sequence[Option]], budget: float, excluded: Sequence[Choice]
) -> Choice | None:
    sizes = np.array([len(options) for options in blocks])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    costs = np.array([o.cost for options in blocks for o in options], dtype=float)
    scores = np.array([o.score for options in blocks for o in options], dtype=float)
    owner = np.repeat(np.arange(len(blocks)), sizes)
    # Costs are counted from the cheapest options, and costs and scores scaled to about 1.
    floor = np.array([costs[owner == n].min() for n in range(len(blocks))])
    left = budget - float(floor.sum())
    if left < -SLACK * abs(budget):
        return None
    extra = costs - floor[owner]
    scale = max(float(extra.max()), 1e-300)
    worth = scores / max(float(np.abs(scores).max()), 1e-300)
    one_each = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    rows, low, high = [one_each, csr_array(extra[None, :] / scale)], [1.0] * len(blocks), []
    high = [1.0] * len(blocks) + [max(left, 0.0) / scale]
    low += [-np.inf]
    for choice in excluded:
        rows.append(csr_array(_chosen(starts, choice)[None, :]))
        low.append(0.0)
        high.append(len(blocks) - 1.0)
    answer = milp(
        -worth,
        integrality=np.ones(len(owner)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(vstack(rows), low, high),
        options={"mip_rel_gap": 0.0},
    )
    if answer.x is None:
        return None
    ones = answer.x
    return tuple(int(np.argmax(ones[start:end])) for start, end in pairwise(starts))


def _chosen(starts: NDArray[np.int64], choice: Choice) -> NDArray[np.float64]:
    """Return a vector over all options, 1 for those of a choice."""
    ones = np.zeros(int(starts[-1]))
    ones[starts[:-1] + np.array(choice)] = 1.0
    return ones
