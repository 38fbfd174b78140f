"""Workers, students and tasks of a pool: their state, and their status for users.

The dispatcher keeps the states and tasks, the coordinator the handles and clients.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ktbench.teacher.pool.messages import Hello, Ready, StreamKey
from ktbench.teacher.pool.scheduler_events import Rules

_TAKES = 16
"""Takes of a student that its rate is computed from."""

# ---------------------------------------------------------------- workers


@dataclass(slots=True)
class WorkerState:
    """A worker's speed and load. Times are the caller's, in seconds."""

    name: str
    joined: float
    rules: Rules
    recent: deque[float] = field(default_factory=deque)
    """Its last service times, message costs included."""
    holds: list[int] = field(default_factory=list)
    """Tasks that it was sent and has not answered, in that order."""
    began: float = 0.0
    """Time at which it took up the first of them."""
    strikes: int = 0
    """Failures since its last good answer."""
    active: bool = True
    """False for a parked worker, which is sent only what all others failed."""
    parked: float = 0.0
    """Time at which it was parked."""
    answered: int = 0

    def service(self, otherwise: float) -> float:
        """Return the expected seconds per task: the median of the last ones."""
        return statistics.median(self.recent) if self.recent else otherwise

    def measure(self, seconds: float) -> None:
        """Add one service time."""
        if len(self.recent) == self.rules.samples:
            self.recent.popleft()
        self.recent.append(max(seconds, 1e-6))

    def depth(self) -> int:
        """Return how many tasks it may hold: one until its speed is known."""
        return self.rules.depth if self.recent else 1

    def free_at(self, now: float, service: float) -> float:
        """Return when it is expected to have answered all that it holds."""
        if not self.holds:
            return now
        first = max(0.0, self.began + service - now)
        return now + first + (len(self.holds) - 1) * service


def typical_service(workers: Iterable[WorkerState], otherwise: float) -> float:
    """Return the median service time over workers that have one."""
    services = [statistics.median(w.recent) for w in workers if w.recent]
    return statistics.median(services) if services else otherwise


def smallest_cover(rates: dict[str, float], demand: float) -> set[str]:
    """Return the fewest workers whose rates add up to `demand`, fastest first, at least one."""
    chosen: set[str] = set()
    total = 0.0
    for name in sorted(rates, key=lambda n: (-rates[n], n)):
        if chosen and total >= demand:
            break
        chosen.add(name)
        total += rates[name]
    return chosen


@dataclass
class WorkerHandle:
    """A worker's actor, and what has happened to it."""

    actor: Any
    own: bool
    """True for a worker that the pool itself started."""
    life: int = 0
    """Incarnation counter; stale callbacks compare against it."""
    restarts: int = 0
    dismissals: int = 0
    hello: Hello | None = None
    checked: float = 0.0
    """Time at which it was last asked whether it is alive."""


def worker_status(name: str, handle: WorkerHandle, state: WorkerState | None) -> dict[str, Any]:
    """Describe a worker for people and programs; without a state it has not been let in yet."""
    hello = handle.hello
    rate = 1 / state.service(0.0) if state is not None and state.recent else 0.0
    return {
        "name": name,
        "node": hello.node if hello is not None else "",
        "process": hello.process if hello is not None else 0,
        "state": "starting" if state is None else "at work" if state.active else "parked",
        "answered": state.answered if state is not None else 0,
        "per_second": round(rate, 3),
        "holds": len(state.holds) if state is not None else 0,
        "restarts": handle.restarts,
    }


# ---------------------------------------------------------------- students


@dataclass(slots=True)
class Task:
    """A batch that a student waits for, or whose answer it has not accepted yet."""

    name: int
    student: str
    copies: dict[str, float] = field(default_factory=dict)
    """Workers that hold it, and the time at which each is overdue."""
    failed_on: set[str] = field(default_factory=set)
    errors: int = 0
    losses: int = 0
    delivered: str | None = None
    """Name of the worker whose answer its student was given."""


@dataclass(slots=True)
class StudentState:
    """A student's open tasks, and how fast it takes answers."""

    name: str
    served: int = 0
    """Tasks that workers were sent for it; the student with the fewest comes next."""
    waiting: list[int] = field(default_factory=list)
    """Tasks that no worker holds, in the order of need."""
    open: set[int] = field(default_factory=set)
    """All tasks that it has submitted and whose answer it has not taken."""
    ready: set[int] = field(default_factory=set)
    """Tasks answered and not yet taken."""
    taken: int = 0
    takes: deque[float] = field(default_factory=lambda: deque(maxlen=_TAKES))
    """Times at which it took its last answers."""

    def unqueue(self, task: int) -> None:
        """Remove a task from those that no worker holds, if it is one of them."""
        if task in self.waiting:
            self.waiting.remove(task)

    def forget(self, task: int) -> None:
        """Remove a task that is over."""
        self.ready.discard(task)
        self.open.discard(task)
        self.unqueue(task)

    def take(self, now: float) -> None:
        """Count one taken answer."""
        self.taken += 1
        self.takes.append(now)

    def buffered(self) -> int:
        """Return how many answers it can take now: those before the first missing one."""
        missing = min((t for t in self.open if t not in self.ready), default=None)
        return len(self.ready) if missing is None else sum(t < missing for t in self.ready)

    def rate(self) -> float:
        """Return the answers that it takes per second; 0 while that is not known."""
        if len(self.takes) < 2 or self.takes[-1] <= self.takes[0]:
            return 0.0
        return (len(self.takes) - 1) / (self.takes[-1] - self.takes[0])


@dataclass
class Client:
    """A training that reads from the pool, and what waits for it."""

    key: StreamKey
    label: str
    heard: float
    """Time of its last call."""
    tasks: dict[int, int] = field(default_factory=dict)
    """The dispatcher's task by the number of the client's request."""
    ready: list[Ready] = field(default_factory=list)
    poisoned: list[tuple[int, str]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)


def client_status(client: Client, state: StudentState) -> dict[str, Any]:
    """Describe a training for people and programs."""
    return {
        "label": client.label,
        "taken": state.taken,
        "per_second": round(state.rate(), 3),
        "open": len(state.open),
        "ready": len(state.ready),
    }
