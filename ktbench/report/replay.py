"""Replay of a finished folder as a race of seeds: its spending and its decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ktbench import stats
from ktbench.records import KtbenchError
from ktbench.report.analysis import GROUP, Analysis
from ktbench.stats.intervals import Intervals
from ktbench.stats.sequential import State


@dataclass(frozen=True)
class Raced:
    """A comparison with no transfer in the race, and beside it the verdict of all its seeds."""

    student: str
    method: str
    state: State
    spent: int
    """Seeds that the race asks for."""
    seeds: int
    """Seeds that the folder has."""
    gain: float
    """Mean gain of the seeds that the race asks for."""
    sign: stats.Sign
    sign_of_all: stats.Sign


@dataclass(frozen=True)
class Replay:
    """The race over a whole folder."""

    rule: stats.SeedRule
    comparisons: tuple[Raced, ...]
    spent: int
    """Trainings that the race asks for, those of no transfer included."""
    trainings: int
    """Trainings of the folder's comparisons."""
    seconds_spent: float
    """Seconds of the trainings, each alone with its teacher's passes."""
    seconds: float

    @property
    def agreeing(self) -> int:
        """Comparisons with the same sign both ways."""
        return sum(one.sign == one.sign_of_all for one in self.comparisons)


def replay(analysis: Analysis, start: int, most: int | None = None) -> Replay:
    """Add the seeds of a finished folder one by one, in their order, until nothing is open.

    `most`: seeds of a comparison at most; those of the folder when not given. A failed training
    counts as in the report. Raises KtbenchError where no comparison has `start` seeds.
    """
    pairs = _pairs(analysis)
    available = np.array([len(group) for _, group in pairs])
    if not len(available) or available.max() < start:
        has = f"at most {available.max()} seeds" if len(available) else "no comparison"
        raise KtbenchError(f"{analysis.results.path}: has {has}, and a race begins with {start}")
    largest = int(available.max())
    rule = stats.SeedRule(start=start, most=min(most or largest, largest))
    n, standing = _race([group["gain_itt"].to_numpy(float) for _, group in pairs], rule)
    signs = analysis.gains.set_index(GROUP)["sign"]
    raced = [
        Raced(
            student=name[GROUP.index("student")],
            method=name[GROUP.index("label")],
            state=state,
            spent=int(count),
            seeds=len(group),
            gain=float(group["gain_itt"].iloc[:count].mean()),
            sign=sign if state == "decided" else "none",
            sign_of_all=signs[name],
        )
        for (name, group), count, state, sign in zip(
            pairs, n, standing.states, standing.sign, strict=True
        )
    ]
    asked = pd.concat([group.iloc[:count] for (_, group), count in zip(pairs, n, strict=True)])
    spent, seconds_spent = _cost(analysis.cells, asked)
    whole, seconds = _cost(analysis.cells, pd.concat([group for _, group in pairs]))
    return Replay(rule, tuple(raced), spent, whole, seconds_spent, seconds)


def _pairs(analysis: Analysis) -> list[tuple[Any, pd.DataFrame]]:
    """Return the name and the cells of each comparison, by seed."""
    cells = analysis.cells
    paired = cells[~cells["is_baseline"] & cells["gain_itt"].notna()]
    return [
        (name, group.sort_values("seed", kind="stable"))
        for name, group in paired.groupby(GROUP, sort=False)
    ]


def _race(
    gains: list[stats.Floats], rule: stats.SeedRule
) -> tuple[NDArray[np.int64], stats.Standing]:
    """Return the seeds that each comparison is given, and how they stand at the end."""
    available = np.array([len(values) for values in gains])
    n = np.minimum(rule.start, available)
    while True:
        standing = stats.standing(_after(gains, n), rule, done=n >= available)
        waiting = np.array([state == "open" for state in standing.states])
        if not waiting.any():
            return n, standing
        n = n + waiting


def _after(gains: list[stats.Floats], n: NDArray[np.int64]) -> Intervals:
    values = [row[:count] for row, count in zip(gains, n, strict=True)]
    return stats.intervals(np.concatenate(values), np.repeat(np.arange(len(n)), n), len(n))


def _cost(cells: pd.DataFrame, asked: pd.DataFrame) -> tuple[int, float]:
    """Return trainings and seconds of cells and of the baselines that they are compared with."""
    keys = set(asked["key"]) | set(asked["baseline"])
    costs = cells[cells["key"].isin(list(keys))]
    return len(keys), float((costs["seconds"] + costs["teacher_seconds"].fillna(0)).sum())
