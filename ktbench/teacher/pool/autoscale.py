"""Scales the number of active workers: watermarks on ready answers, with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ktbench.teacher.pool.registry import (
    StudentState,
    WorkerState,
    smallest_cover,
    typical_service,
)
from ktbench.teacher.pool.scheduler_events import Action, AskForWorker, Release, Rules

Workers = Mapping[str, WorkerState]
Students = Mapping[str, StudentState]


class Autoscaler:
    """Calls workers when a student starves, parks the slowest when all are well served."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._starving: float | None = None
        self._well_served: float | None = None
        self._last_asked = -math.inf

    def keep_one(self, workers: Workers) -> None:
        """Activate the fastest parked worker where no active one is left."""
        if workers and not any(w.active for w in workers.values()):
            self._call(workers)

    def adjust(
        self, workers: Workers, students: Students, window: Callable[[str], int], now: float
    ) -> list[Action]:
        """Call, park or ask for workers, once a condition has held for long enough."""
        rules = self._rules
        low = any(
            s.buffered() <= rules.low and len(s.open) > len(s.ready) for s in students.values()
        )
        high = all(s.buffered() >= rules.high * window(s.name) for s in students.values())
        # Between the marks, the condition goes on: answers come in bursts.
        self._starving = _since(self._starving, begins=low, ends=high, now=now)
        self._well_served = _since(
            self._well_served, begins=high and bool(students), ends=low, now=now
        )
        if self._starving is not None and now - self._starving >= rules.grow_after:
            return self._grow(workers, now)
        if self._well_served is not None and now - self._well_served >= rules.shrink_after:
            self._well_served = now  # One at a time: the next has to earn it again.
            self._shrink(workers, students, now)
        return [
            Release(w.name)
            for w in workers.values()
            if not w.active and now - w.parked >= rules.release_after
        ]

    def _grow(self, workers: Workers, now: float) -> list[Action]:
        self._starving = now
        if self._call(workers) or now - self._last_asked < self._rules.ask_every:
            return []
        self._last_asked = now
        return [AskForWorker()]

    def _call(self, workers: Workers) -> bool:
        """Activate the fastest parked worker, if there is one."""
        parked = [w for w in workers.values() if not w.active]
        if not parked:
            return False
        usual = typical_service(workers.values(), self._rules.unknown)
        min(parked, key=lambda w: (w.service(usual), w.name)).active = True
        return True

    def _shrink(self, workers: Workers, students: Students, now: float) -> None:
        """Park the slowest worker that is not needed for what the students take."""
        active = [w for w in workers.values() if w.active]
        demand = sum(s.rate() for s in students.values())
        if demand <= 0 or any(not w.recent for w in active):
            return
        rates = {w.name: 1 / w.service(self._rules.unknown) for w in active}
        needed = smallest_cover(rates, self._rules.margin * demand)
        spare = [w for w in active if w.name not in needed]
        if spare:
            slowest = min(spare, key=lambda w: (rates[w.name], w.name))
            slowest.active, slowest.parked = False, now


def _since(before: float | None, *, begins: bool, ends: bool, now: float) -> float | None:
    """Return when a condition began to hold, or None."""
    if ends:
        return None
    return now if begins and before is None else before
