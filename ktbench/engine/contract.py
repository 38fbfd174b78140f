"""The contract of an engine: it runs plain functions of records, wherever it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Report = Callable[[float], None]
"""How a job tells its progress: a share in [0, 1]."""


class Engine(Protocol):
    """Where work runs. Jobs and outcomes can be pickled; the function is a module's own."""

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome]]:
        """Each job with what came of it, as soon as it is there; the order is the engine's."""
