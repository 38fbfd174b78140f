"""What the dispatcher tells whoever carries it out, and the rules that it follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Send:
    """Give the task to the worker."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """The worker's answer is the task's: it goes to the student."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Drop:
    """The worker's answer is not wanted: another came first, or nobody waits for it any more."""

    task: int
    worker: str


@dataclass(frozen=True, slots=True)
class Poisoned:
    """No worker can answer the task: its student ends with the reason."""

    task: int
    student: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The worker is no longer of use (it hangs, or answers wrongly): end its process."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The students take more than all workers give: another worker would help."""


@dataclass(frozen=True, slots=True)
class Release:
    """The worker has not been needed for a while: it may be ended."""

    worker: str


Action = Send | Deliver | Drop | Poisoned | Dismiss | Ask | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bounds and times (in seconds) of the dispatcher."""

    depth: int = 2
    """Tasks that a worker holds: one that it works on and one on its way."""
    samples: int = 5
    """Service times whose median is a worker's."""
    unknown: float = 1.0
    """Service time that is assumed before any worker has answered."""
    overdue: float = 3.0
    """A task this many times later than expected is given to another worker too."""
    overdue_floor: float = 0.5
    """But never sooner than this."""
    hung: float = 20.0
    """A worker this many times later than expected hangs."""
    hung_floor: float = 15.0
    """But never sooner than this."""
    patience: float = 120.0
    """What a first answer may take, when nothing is known."""
    errors: int = 3
    """Wrong answers or errors that poison a task, once every worker has had it."""
    losses: int = 6
    """Workers that die over a task before it is taken to be the cause."""
    strikes: int = 4
    """Wrong answers in a row that dismiss a worker."""
    low: int = 1
    """Answers ready at which another worker is called for."""
    high: float = 0.5
    """Share of a student's window that is ready when workers are too many."""
    grow_after: float = 0.5
    """How long a student must starve before a parked worker is called."""
    ask_every: float = 5.0
    """Time between two calls for a new worker, as one takes seconds to start."""
    shrink_after: float = 3.0
    """How long all students must be well served before a worker is parked."""
    release_after: float = 30.0
    """How long a parked worker is kept before it is offered for release."""
    margin: float = 1.15
    """Rates kept above what the students take."""
    most_ahead: int = 256
    """Most tasks of one student that are open or ready at once."""
