"""Which cells share a job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ktbench.runner.cohort_jobs import CellTask

COHORT = 32
"""Most cells of one job. How many of them share a batch is for the memory to say, where they are
trained; a job's results come when all of it is done."""
PER_WORKER = 2
"""Least jobs per worker, where there are cells enough: so that all end at about the same time."""


def cohorts(tasks: Sequence[CellTask], workers: int = 1) -> list[list[CellTask]]:
    """Tasks that share teacher, data order, budget and numeric settings, in parts of like size.

    A part has COHORT tasks at most, and so few that each worker gets PER_WORKER of them where
    there are enough. Cells that are only to be exported again stay by themselves: they need no
    teacher.
    """
    groups: dict[tuple[object, ...], list[CellTask]] = {}
    for task in tasks:
        cell = task.cell
        teacher = cell.teacher.canonical if cell.teacher is not None else ""
        parts = (cell.data.canonical, teacher, cell.train.canonical, cell.numeric.canonical)
        groups.setdefault((*parts, cell.seed, task.trained is None), []).append(task)
    most = COHORT if workers == 1 else min(COHORT, len(tasks) // (PER_WORKER * workers) or 1)
    return [part for group in groups.values() for part in _parts(group, most)]


def _parts(group: list[CellTask], most: int) -> list[list[CellTask]]:
    """The group in as few parts as may be, whose sizes differ by one at most."""
    count = math.ceil(len(group) / most)
    bounds = [len(group) * i // count for i in range(count + 1)]
    return [group[a:b] for a, b in pairwise(bounds)]
