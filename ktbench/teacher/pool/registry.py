"""Who a pool knows: the trainings that ask, the workers that answer, and what each is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from ktbench.teacher.pool.messages import Hello, StreamKey
from ktbench.teacher.pool.student_demand import StudentState
from ktbench.teacher.pool.worker_load import WorkerState


@dataclass(frozen=True)
class Ready:
    """An answer for a training: where it lies, and whose it is."""

    number: int
    worker: str
    answer: list[Any]
    """One ObjectRef, in a list so that Ray does not fetch it on the way."""


@dataclass(frozen=True)
class Collected:
    """What there is for a training, and how the pool stands."""

    ready: list[Ready]
    poisoned: list[tuple[int, str]]
    workers: int
    window: int
    refused: str = ""
    """Why the last worker that was refused was."""
    known: bool = True
    """False: the pool has been started anew and knows nothing of this training."""


@dataclass
class Training:
    """One that asks."""

    key: StreamKey
    label: str
    heard: float
    tasks: dict[int, int] = field(default_factory=dict)
    """The dispatcher's task by the training's number."""
    ready: list[Ready] = field(default_factory=list)
    poisoned: list[tuple[int, str]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Hand:
    """A worker's actor."""

    handle: Any
    own: bool
    life: int = 0
    """Rises with every start and end: what belongs to an earlier life is told by it."""
    restarts: int = 0
    dismissals: int = 0
    hello: Hello | None = None
    looked: float = 0.0
    """When it was last asked whether it is alive."""


def worker_status(name: str, hand: Hand, state: WorkerState | None) -> dict[str, Any]:
    """A worker for people and programs; without a state it has not been let in yet."""
    where = hand.hello
    rate = 1 / state.service(0.0) if state is not None and state.recent else 0.0
    return {
        "name": name,
        "node": where.node if where is not None else "",
        "process": where.process if where is not None else 0,
        "state": "starting" if state is None else "at work" if state.active else "parked",
        "answered": state.answered if state is not None else 0,
        "per_second": round(rate, 3),
        "holds": len(state.holds) if state is not None else 0,
        "restarts": hand.restarts,
    }


def training_status(known: Training, state: StudentState) -> dict[str, Any]:
    """A training for people and programs."""
    return {
        "label": known.label,
        "taken": state.taken,
        "per_second": round(state.rate(), 3),
        "open": len(state.open),
        "ready": len(state.ready),
    }


def first_line(error: Exception) -> str:
    """What an error of Ray's says, without its second page."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
