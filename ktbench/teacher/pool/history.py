"""The history of a pool: events, and the answers of each second."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MOST_EVENTS = 20_000
Kind = Literal["join", "leave", "restart", "refused", "dismissed", "failed", "poisoned", "asked"]


@dataclass(frozen=True)
class Event:
    """An event of a worker or a task; `second` counts from the pool's start."""

    second: float
    kind: Kind
    worker: str
    reason: str = ""


@dataclass
class History:
    """The record that the report draws; times are the coordinator's."""

    started: float = field(default_factory=time.time)
    """Unix time of the pool's start."""
    events: list[Event] = field(default_factory=list)
    answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Answers delivered in each second since the start."""
    work: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Batches that each worker answered and its seconds of work, over all of its lives."""
    dropped: int = 0
    """Answers that came too late: after another one, or when nobody waited any more."""
    workers: dict[int, int] = field(default_factory=dict)
    """Workers present in a second, where their number changed."""

    def now(self) -> float:
        """Seconds since the start."""
        return time.time() - self.started

    def add(self, kind: Kind, worker: str, reason: str = "") -> None:
        """Record an event; beyond MOST_EVENTS only counts go on."""
        if len(self.events) < MOST_EVENTS:
            self.events.append(Event(round(self.now(), 3), kind, worker, reason[:200]))

    def worked(self, worker: str, seconds: float) -> None:
        """Count a batch that a worker answered, and its seconds of work."""
        batches, total = self.work.get(worker, (0, 0.0))
        self.work[worker] = batches + 1, total + seconds

    def delivered(self) -> None:
        """Count an answer that went to a training."""
        self.answers[int(self.now())] += 1

    def present(self, workers: int) -> None:
        """Record how many workers are present now."""
        self.workers[int(self.now())] = workers

    def plain(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        return {
            "started": self.started,
            "seconds": round(self.now(), 3),
            "events": [asdict(event) for event in self.events],
            "answers": sorted(self.answers.items()),
            "work": {name: [n, round(s, 3)] for name, (n, s) in sorted(self.work.items())},
            "dropped": self.dropped,
            "workers": sorted(self.workers.items()),
        }
