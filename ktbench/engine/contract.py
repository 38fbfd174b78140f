"""The contract of an engine: it runs plain functions of records, wherever it chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from ktbench.records import NumericSpec, Plan
from ktbench.supervision import Mark


class Work(Protocol):
    """A job for an engine: it can be pickled, and states what it needs."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings: its threads, and whether it runs on a GPU."""


Job = TypeVar("Job", bound=Work)
Outcome = TypeVar("Outcome")
Report = Callable[[float], None]
"""Reports a job's progress as a share in [0, 1]."""


def silent(share: float) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Lost:
    """The outcome of a job whose process died or hung."""

    reason: str
    mark: Mark = field(default_factory=Mark)
    """Last work that the process marked, where the engine knows it."""
    again: bool = False
    """True where the runner may run the same job again."""
    killed: bool = False
    """True where the process was killed from outside (SIGKILL): the job itself may be fine."""


@dataclass(frozen=True)
class Workers:
    """Number of jobs that run at the same time."""

    all: int = 1
    per_machine: int = 1
    """Most jobs on one machine, which share its memory."""


class Engine(Protocol):
    """Runs jobs. Jobs and outcomes can be pickled; the function is defined in a module."""

    def check(self, plan: Plan) -> None:
        """Raise KtbenchError, before anything is written, where nothing can compute as asked."""

    def ahead(
        self, function: Callable[[Job, Report], Outcome], job: Job, report: Report = silent
    ) -> Outcome | Lost:
        """Run one job on this machine before `at`, without a results folder; return its outcome."""

    def at(self, plan: Plan, folder: Path) -> AbstractContextManager[Workers]:
        """Allow jobs of this plan inside the block; they write below `folder`.

        When the block is left, however that happens, no job runs any more and what was started
        for them is gone: the machine is as quiet as before.
        """

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome | Lost]]:
        """Give each job with its outcome as soon as it is there, in an order of the engine's.

        What the function raises is raised here.
        """
