"""Runs jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ktbench.engine.contract import Job, Lost, Outcome, Report, Workers, silent
from ktbench.networks.numeric import check
from ktbench.records import Plan


class Inline:
    """The engine without machinery; its order of results is the order of the jobs."""

    def check(self, plan: Plan) -> None:
        """See `Engine`: this process must be able to do it."""
        for spec in {cell.numeric.canonical: cell.numeric for cell in plan.cells}.values():
            check(spec)

    def ahead(
        self, function: Callable[[Job, Report], Outcome], job: Job, report: Report = silent
    ) -> Outcome | Lost:
        """See `Engine`: in this process."""
        return function(job, report)

    def at(self, plan: Plan, folder: Path) -> AbstractContextManager[Workers]:
        """See `Engine`; there is nothing to start or to end."""
        return nullcontext(Workers())

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome]]:
        """See `Engine`."""
        for job in jobs:

            def tell(share: float, job: Job = job) -> None:
                report(job, share)

            yield job, function(job, tell)
