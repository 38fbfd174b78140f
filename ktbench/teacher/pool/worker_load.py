"""Workers as the dispatcher knows them: how fast they are, what they hold, who is needed."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ktbench.teacher.pool.scheduler_events import Rules


@dataclass(slots=True)
class WorkerState:
    """One worker. Times are the caller's, in seconds."""

    name: str
    joined: float
    rules: Rules
    recent: deque[float] = field(default_factory=deque)
    """Its last service times, message costs included."""
    holds: list[int] = field(default_factory=list)
    """Tasks that it was sent and has not answered, in that order."""
    began: float = 0.0
    """When it took up the first of them."""
    strikes: int = 0
    """Failures since its last good answer."""
    active: bool = True
    """Parked workers are sent nothing but what all others failed."""
    parked: float = 0.0
    """Since when."""
    answered: int = 0

    def service(self, otherwise: float) -> float:
        """Expected seconds per task: the median of the last ones."""
        return statistics.median(self.recent) if self.recent else otherwise

    def measure(self, seconds: float) -> None:
        """Take in one service time."""
        if len(self.recent) == self.rules.samples:
            self.recent.popleft()
        self.recent.append(max(seconds, 1e-6))

    def depth(self) -> int:
        """How many tasks it may hold: one until its speed is known."""
        return self.rules.depth if self.recent else 1

    def free_at(self, now: float, service: float) -> float:
        """When it is expected to have answered all that it holds."""
        if not self.holds:
            return now
        first = max(0.0, self.began + service - now)
        return now + first + (len(self.holds) - 1) * service


def typical(workers: Iterable[WorkerState], otherwise: float) -> float:
    """The median service time over workers that have one."""
    known = [statistics.median(w.recent) for w in workers if w.recent]
    return statistics.median(known) if known else otherwise


def smallest_cover(rates: dict[str, float], demand: float) -> set[str]:
    """The fewest workers whose summed rates reach `demand`: the fastest first, at least one."""
    chosen: set[str] = set()
    total = 0.0
    for name in sorted(rates, key=lambda n: (-rates[n], n)):
        if chosen and total >= demand:
            break
        chosen.add(name)
        total += rates[name]
    return chosen
