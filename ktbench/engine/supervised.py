"""Runs jobs one after the other in a supervised child process: the default engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ktbench.engine.contract import Job, Lost, Outcome, Report, Workers, silent
from ktbench.networks.numeric import check
from ktbench.records import Plan
from ktbench.supervision import Child, Died

LOGS = "logs"
"""The folder below the results folder where the output of a process that died is kept."""


class Supervised:
    """Runs all jobs in one warm child process, which is replaced when a job ends it.

    `child` is a process that has started already; the engine ends it, too.
    """

    def __init__(self, child: Child | None = None) -> None:
        self._child = child or Child()
        self._step_s = 0.0

    def check(self, plan: Plan) -> None:
        """See `Engine`: this machine must be able to do it. The child starts meanwhile."""
        self._child.start()
        for spec in {cell.numeric.canonical: cell.numeric for cell in plan.cells}.values():
            check(spec)

    def ahead(
        self, function: Callable[[Job, Report], Outcome], job: Job, report: Report = silent
    ) -> Outcome | Lost:
        """See `Engine`."""
        try:
            outcome: Outcome = self._child.run(function, job, report=report)
        except Died as died:
            return lost(died)
        return outcome

    @contextmanager
    def at(self, plan: Plan, folder: Path) -> Iterator[Workers]:
        """See `Engine`."""
        self._child.logs = folder / LOGS
        self._step_s = plan.limits.step_seconds
        try:
            yield Workers()
        finally:
            self._child.close()

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome | Lost]]:
        """See `Engine`; a job whose process died or hung is `Lost`."""
        for job in jobs:

            def tell(share: float, job: Job = job) -> None:
                report(job, share)

            try:
                outcome = self._child.run(function, job, report=tell, step_s=self._step_s)
            except Died as died:
                outcome = lost(died)
            yield job, outcome


def lost(died: Died) -> Lost:
    """Turn the death of a child process into the outcome of its job."""
    return Lost(died.reason, died.mark, again=True, killed=died.killed)
