"""The contract of an engine: it runs plain functions of records, wherever it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from ktbench.records import NumericSpec, Plan
from ktbench.supervision import Mark


class Work(Protocol):
    """Something to do: it can be pickled, and says what it takes."""

    @property
    def numeric(self) -> NumericSpec:
        """Threads that it computes with, and whether on a GPU."""


Job = TypeVar("Job", bound=Work)
Outcome = TypeVar("Outcome")
Report = Callable[[float], None]
"""How a job tells its progress: a share in [0, 1]."""


@dataclass(frozen=True)
class Lost:
    """The outcome of a job whose process died or hung."""

    reason: str
    mark: Mark = field(default_factory=Mark)
    """What the process was working on, where the engine knows it."""
    again: bool = False
    """Whether the runner may run the same job again."""
    killed: bool = False
    """Whether the process was killed from outside (SIGKILL), so that the job itself may be fine."""


@dataclass(frozen=True)
class Workers:
    """How many jobs run at the same time."""

    all: int = 1
    per_machine: int = 1
    """At most; they share its memory."""


class Engine(Protocol):
    """Where work runs. Jobs and outcomes can be pickled; the function is a module's own."""

    def check(self, plan: Plan) -> None:
        """Raise KtbenchError, before anything is written, where nothing can compute as asked."""

    def ahead(self, function: Callable[[Job, Report], Outcome], job: Job) -> Outcome | Lost:
        """Run one job on this machine before `at`, without a results folder; return its outcome."""

    def at(self, plan: Plan, folder: Path) -> AbstractContextManager[Workers]:
        """Jobs of this plan may be run inside the block; they write below `folder`.

        When the block is left, however that happens, no job runs any more and what was started
        for them is gone: the machine is as quiet as before.
        """

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome | Lost]]:
        """Each job with what came of it, as soon as it is there; the order is the engine's.

        What the function raises is raised here.
        """
