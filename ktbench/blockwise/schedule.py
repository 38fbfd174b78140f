"""Assigns blocks to workers, as pure functions of measured times.

A pack is a tuple of block numbers, in the order of the network; a schedule is one pack per worker
that has something to do. No weight depends on any of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

Pack = tuple[int, ...]
Packs = tuple[Pack, ...]
Schedule = Literal["longest_first", "contiguous", "queue"]
Feed = Literal["relay", "prefix"]
Way = Literal["relay", "prefix", "handed_on"]
"""The part of the teacher that a worker runs: up to its last block, once (`relay`); up to each of
its blocks, once per block (`prefix`); only from the end of the worker before to its own last block,
as that one hands its activations on (`handed_on`)."""
WAYS: tuple[Way, ...] = ("prefix", "relay", "handed_on")


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds that a block takes of a worker, for any one unit of training (a step, an epoch)."""

    own: float
    """Forward, backward and update of the block itself."""
    prefix: float
    """The teacher's pass from its input to the block's end."""


def longest_first(times: Sequence[float], workers: int) -> Packs:
    """Assign each block, the longest first, to the worker that has least to do (Graham, 1969).

    The slowest worker takes at most 4/3 - 1/(3 · workers) of the best schedule's time.
    """
    sums = [(0.0, number) for number in range(workers)]
    packs: list[list[int]] = [[] for _ in range(workers)]
    for block in sorted(range(len(times)), key=lambda i: (-times[i], i)):
        total, number = heapq.heappop(sums)
        packs[number].append(block)
        heapq.heappush(sums, (total + times[block], number))
    return _tidy(packs)


def longest_first_relay(loads: Sequence[Load], workers: int) -> Packs:
    """Assign as `longest_first` does, counting that a worker's prefix grows with its last block.

    Each block, the longest first, goes to the worker that then has the least to do. Of the
    resulting packs and of cuts between neighbours, those whose slowest worker takes least win.
    """
    packs: list[list[int]] = [[] for _ in range(workers)]
    for block in sorted(range(len(loads)), key=lambda i: (-loads[i].own, i)):
        after = [_relayed(loads, [*pack, block]) for pack in packs]
        packs[min(range(workers), key=lambda w: (after[w], w))].append(block)
    plain = longest_first([load.own for load in loads], workers)
    cut = contiguous_relay(loads, workers)
    return min((_tidy(packs), plain, cut), key=lambda p: makespan(p, loads, "relay"))


def contiguous(times: Sequence[float], workers: int) -> Packs:
    """Assign neighbours to one worker, cut where the slowest takes least: every cut is tried.

    Beyond a million cuts, the same is computed by dynamic programming.
    """
    count = min(workers, len(times))
    if count < 2:
        return (tuple(range(len(times))),) if times else ()
    if math.comb(len(times) - 1, count - 1) > 1_000_000:
        return _between(cut_by_programme(times, count), len(times))
    every = (_between(c, len(times)) for c in combinations(range(1, len(times)), count - 1))
    return min(every, key=lambda packs: max(sum(times[i] for i in pack) for pack in packs))


def contiguous_relay(loads: Sequence[Load], workers: int) -> Packs:
    """Assign as `contiguous`, where every worker runs the teacher up to its own last block."""
    count = min(workers, len(loads))
    if count < 2 or math.comb(len(loads) - 1, count - 1) > 1_000_000:
        return contiguous([load.own for load in loads], workers)
    every = (_between(c, len(loads)) for c in combinations(range(1, len(loads)), count - 1))
    return min(every, key=lambda packs: makespan(packs, loads, "relay"))


def arrange(loads: Sequence[Load], workers: int, schedule: Schedule, feed: Feed) -> Packs:
    """Return the packs that a matrix asks for; those of a queue are what a replay would give."""
    alone = [load.own + (load.prefix if feed == "prefix" else 0.0) for load in loads]
    if schedule == "queue":
        return queue([load.own + load.prefix for load in loads], workers)
    if feed == "prefix":
        return (longest_first if schedule == "longest_first" else contiguous)(alone, workers)
    if schedule == "longest_first":
        return longest_first_relay(loads, workers)
    return contiguous_relay(loads, workers)


def handed_on(loads: Sequence[Load], workers: int) -> Packs:
    """Assign as `contiguous`, where workers hand activations on: one pass of the teacher."""
    return contiguous(segments(loads), workers)


def cut_by_programme(times: Sequence[float], workers: int) -> tuple[int, ...]:
    """Compute the cuts of `contiguous` by dynamic programming over (blocks, workers) so far."""
    sums = np.concatenate([[0.0], np.cumsum(times)])
    slowest = sums.copy()
    choices = []
    for _ in range(1, workers):
        # rows: blocks so far; columns: where the last worker begins
        last = sums[:, None] - sums[None, :]
        table = np.maximum(slowest[None, :], last)
        table[np.triu_indices(len(sums), 0)] = np.inf
        choices.append(table.argmin(axis=1))
        slowest = table.min(axis=1)
    cuts, end = [], len(times)
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return tuple(sorted(cuts))


def queue(times: Sequence[float], workers: int) -> Packs:
    """Replay a queue: whichever worker is free takes the next block, in this order."""
    free = [(0.0, number) for number in range(workers)]
    packs: list[list[int]] = [[] for _ in range(workers)]
    for block, seconds in enumerate(times):
        now, number = heapq.heappop(free)
        packs[number].append(block)
        heapq.heappush(free, (now + seconds, number))
    return _tidy(packs)


@dataclass(frozen=True, slots=True)
class BestSchedule:
    """The best schedule found, and a bound on how good one can be."""

    packs: Packs
    seconds: float
    """Seconds of its slowest worker."""
    bound: float
    """Least seconds of any schedule's slowest worker; equal to `seconds` where that is proved."""


def best(
    loads: Sequence[Load], workers: int, way: Way = "relay", *, limit: float = 20.0
) -> BestSchedule:
    """Find the schedule whose slowest worker takes least, by mixed-integer programme.

    Packs may be any sets of blocks; for `handed_on` they are neighbours. The search ends after
    `limit` seconds with the best so far and the bound that was proved.
    """
    if way == "handed_on":
        packs = contiguous(segments(loads), workers)
        seconds = makespan(packs, loads, way)
        return BestSchedule(packs, seconds, seconds)
    start = _start(loads, workers, way)
    solved = _solved(loads, workers, way, limit)
    if solved.x is None:
        return BestSchedule(start, makespan(start, loads, way), _floor(loads, workers, way))
    chosen = solved.x[: len(loads) * workers].reshape(len(loads), workers).argmax(axis=1)
    packs = _tidy([[i for i, w in enumerate(chosen) if w == worker] for worker in range(workers)])
    packs = min((packs, start), key=lambda p: makespan(p, loads, way))
    seconds = makespan(packs, loads, way)
    bound = max(float(solved.mip_dual_bound or 0.0), _floor(loads, workers, way))
    return BestSchedule(packs, seconds, min(bound, seconds))


def _start(loads: Sequence[Load], workers: int, way: Way) -> Packs:
    if way == "relay":
        return longest_first_relay(loads, workers)
    return longest_first([load.own + load.prefix for load in loads], workers)


def _floor(loads: Sequence[Load], workers: int, way: Way) -> float:
    """Return the least of the slowest worker: the longest block, or the work divided evenly."""
    alone = [load.own + load.prefix for load in loads]
    total = sum(alone) if way == "prefix" else sum(load.own for load in loads)
    return max(max(alone), total / workers)


def _solved(loads: Sequence[Load], workers: int, way: Way, limit: float) -> Any:
    """Solve for x (block, worker), each worker's prefix and the slowest worker's time."""
    count, n = len(loads), len(loads) * workers
    size = n + workers + 1
    rows, low, high = [], [], []

    def add(terms: dict[int, float], least: float, most: float) -> None:
        rows.append(terms)
        low.append(least)
        high.append(most)

    for i in range(count):
        add({i * workers + w: 1.0 for w in range(workers)}, 1.0, 1.0)
    own = [load.own + (load.prefix if way == "prefix" else 0.0) for load in loads]
    for w in range(workers):
        terms = {i * workers + w: own[i] for i in range(count)}
        add({**terms, n + w: 1.0, size - 1: -1.0}, -np.inf, 0.0)
        if way == "relay":
            for i, load in enumerate(loads):
                add({i * workers + w: load.prefix, n + w: -1.0}, -np.inf, 0.0)
    matrix = lil_matrix((len(rows), size))
    for number, terms in enumerate(rows):
        for column, value in terms.items():
            matrix[number, column] = value
    upper = np.full(size, np.inf)
    upper[:n] = 1.0
    for i in range(count):  # workers are alike: block i goes to one of the first i + 1
        upper[i * workers + i + 1 : (i + 1) * workers] = 0.0
    target = np.zeros(size)
    target[-1] = 1.0
    return milp(
        target,
        integrality=np.concatenate([np.ones(n), np.zeros(workers + 1)]),
        bounds=Bounds(np.zeros(size), upper),
        constraints=LinearConstraint(matrix.tocsr(), low, high),
        options={"time_limit": limit},
    )


# ---------------------------------------------------------------- replay


def segments(loads: Sequence[Load]) -> list[float]:
    """Return each block's own time plus the teacher's since the block before, in order."""
    before = [0.0, *(load.prefix for load in loads)]
    return [load.own + load.prefix - start for load, start in zip(loads, before, strict=False)]


def busy(packs: Packs, loads: Sequence[Load], way: Way) -> list[float]:
    """Return the seconds that each worker computes, the teacher's pass included."""
    if way == "prefix":
        return [sum(loads[i].own + loads[i].prefix for i in pack) for pack in packs]
    if way == "relay":
        return [_relayed(loads, pack) for pack in packs]
    ends = [0.0, *(loads[pack[-1]].prefix for pack in packs)]
    own = [sum(loads[i].own for i in pack) for pack in packs]
    return [seconds + b - a for seconds, (a, b) in zip(own, pairwise(ends), strict=True)]


def makespan(packs: Packs, loads: Sequence[Load], way: Way) -> float:
    """Return the seconds of the slowest worker."""
    return max(busy(packs, loads, way), default=0.0)


def speedup(packs: Packs, loads: Sequence[Load], way: Way) -> float:
    """Return the speedup over one worker that trains every block in the same way."""
    alone = makespan((tuple(range(len(loads))),), loads, way)
    return alone / makespan(packs, loads, way)


def _relayed(loads: Sequence[Load], pack: Sequence[int]) -> float:
    return sum(loads[i].own for i in pack) + max((loads[i].prefix for i in pack), default=0.0)


def _between(cuts: Sequence[int], count: int) -> Packs:
    return tuple(tuple(range(a, b)) for a, b in pairwise([0, *cuts, count]))


def _tidy(packs: Sequence[Sequence[int]]) -> Packs:
    """Sort blocks by the network's order and packs by their first block; drop empty packs."""
    return tuple(sorted(tuple(sorted(pack)) for pack in packs if pack))
