"""Actions that the dispatcher returns to be carried out, and the rules that it follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Send:
    """Give the task to the worker."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the worker's answer to the task's student."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Discard the worker's answer: another came first, or nobody waits for it any more."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Tell the student that no worker can answer the task; its training ends with the reason."""

    task: int
    student: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """End the process of a worker that hangs or answers wrongly."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class AskForWorker:
    """Ask for another worker: the students take more than all of them give."""


@dataclass(frozen=True, slots=True)
class Release:
    """Offer a worker for release that has not been needed for a while."""

    worker: str


Action = Send | Deliver | Drop | Poisoned | Dismiss | AskForWorker | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bounds and times (in seconds) of the dispatcher."""

    depth: int = 2
    """Tasks that a worker holds: one that it works on and one on its way."""
    samples: int = 5
    """Service times whose median counts as a worker's speed."""
    unknown: float = 1.0
    """Service time assumed before any worker has answered."""
    overdue: float = 3.0
    """A task this many times later than expected is given to another worker too."""
    overdue_floor: float = 0.5
    """Least time after which a task is overdue."""
    hung: float = 20.0
    """A worker this many times later than expected is taken to hang."""
    hung_floor: float = 15.0
    """Least time after which a worker is taken to hang."""
    patience: float = 120.0
    """Time that a first answer may take, while no speed is known."""
    errors: int = 3
    """Wrong answers or errors that poison a task, once every worker has had it."""
    losses: int = 6
    """Workers that may die over a task before it is taken to be the cause."""
    strikes: int = 4
    """Wrong answers in a row that dismiss a worker."""
    low: int = 1
    """Answers ready at which another worker is called for."""
    high: float = 0.5
    """Share of a student's window that is ready when workers are too many."""
    grow_after: float = 0.5
    """Time that a student must starve before a parked worker is called."""
    ask_every: float = 5.0
    """Time between two calls for a new worker, as one takes seconds to start."""
    shrink_after: float = 3.0
    """Time that all students must be well served before a worker is parked."""
    release_after: float = 30.0
    """Time that a parked worker is kept before it is offered for release."""
    margin: float = 1.15
    """Rates kept above what the students take."""
    most_ahead: int = 256
    """Most tasks of one student that are open or ready at once."""
