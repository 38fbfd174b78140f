"""One option per block, so that the sum of scores is the greatest that a budget allows.

A multiple-choice knapsack, solved exactly as an integer programme; that what blocks do to a network
adds up is the assumption of all searches of this kind (LANA, Molchanov et al., arXiv 2107.10624,
section 3.3; Puzzle, Bercovich et al., arXiv 2411.19146, section 4).
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
"""Share of a budget by which sums of floats may be beyond it."""

Choice = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to fill a block; both add up over blocks."""

    cost: float
    score: float


def total(blocks: Sequence[Sequence[Option]], choice: Choice) -> Option:
    """What a choice costs and scores: sums over the blocks."""
    picked = [options[number] for options, number in zip(blocks, choice, strict=True)]
    return Option(sum(o.cost for o in picked), sum(o.score for o in picked))


def choose(
    blocks: Sequence[Sequence[Option]], budget: float, *, without: Sequence[Choice] = ()
) -> Choice | None:
    """The number of one option per block with the greatest sum of scores that costs at most this.

    Choices of `without` are left out. None where nothing is left.
    """
    shut = list(without)
    while True:
        found = _solved(blocks, budget, shut)
        if found is None or total(blocks, found).cost <= budget + SLACK * abs(budget):
            return found
        shut.append(found)  # beyond the budget by no more than the solver's own tolerance


def best_choices(blocks: Sequence[Sequence[Option]], budget: float, count: int) -> Iterator[Choice]:
    """Up to so many choices within a budget, by falling sum of scores."""
    found: list[Choice] = []
    while len(found) < count:
        choice = choose(blocks, budget, without=found)
        if choice is None:
            return
        found.append(choice)
        yield choice


def _solved(
    blocks: Sequence[Sequence[Option]], budget: float, shut: Sequence[Choice]
) -> Choice | None:
    sizes = np.array([len(options) for options in blocks])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    costs = np.array([o.cost for options in blocks for o in options], dtype=float)
    scores = np.array([o.score for options in blocks for o in options], dtype=float)
    owner = np.repeat(np.arange(len(blocks)), sizes)
    # A choice's score and cost are told against those of the cheapest, and in units of their own.
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
    for choice in shut:
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
    """One where a choice's options stand among all."""
    ones = np.zeros(int(starts[-1]))
    ones[starts[:-1] + np.array(choice)] = 1.0
    return ones
