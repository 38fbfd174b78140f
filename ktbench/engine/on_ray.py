"""Runs jobs as Ray tasks: on the cores of this machine, or on a cluster's.

Ray decides what runs where, and runs a job again when its worker or its node dies; a job goes on
from the checkpoints that it left in the results folder, which every node sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ktbench.engine.contract import Job, Lost, Outcome, Report, Workers, silent
from ktbench.engine.nodes import refuse_here
from ktbench.engine.session import RETRIES, Session, one_line
from ktbench.engine.signals import deferred
from ktbench.records import KtbenchError, NumericSpec, Plan
from ktbench.system import extras

POLL_S = 0.5
"""Seconds between two looks at the progress of jobs; a job reports no more often."""

GPUS_PER_WORKER = 0.25
"""Share of a GPU for a training: a small student leaves most of one idle."""


class OnRay:
    """Runs jobs as tasks of Ray, `workers` of them at a time.

    Without `address` a cluster is started on this machine and ended again; with it, a running one
    is used (`auto`, or HOST:PORT of its head), of which this machine must be a node. Without
    `workers` every core has work. Raises KtbenchError when Ray is not installed.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        address: str | None = None,
        gpus_per_worker: float = GPUS_PER_WORKER,
    ) -> None:
        extras.require("ray", "--engine ray")
        self._workers, self._address, self._gpus_per_worker = workers, address, gpus_per_worker
        self._session: Session | None = None
        self._listener: Any = None
        self._running: dict[Any, int] = {}
        self._submitted = 0

    def check(self, plan: Plan) -> None:
        """See `Engine`. Nodes are checked when they are there, in `at`."""

    def ahead(
        self, function: Callable[[Job, Report], Outcome], job: Job, report: Report = silent
    ) -> Outcome | Lost:
        """See `Engine`: in this process."""
        return function(job, report)

    @contextmanager
    def at(self, plan: Plan, folder: Path) -> Iterator[Workers]:
        """See `Engine`.

        Raises KtbenchError when Ray cannot be started or reached, and for a node that differs
        from this machine.
        """
        numeric = plan.cells[0].numeric if plan.cells else NumericSpec()  # a matrix has but one
        session = Session(
            plan,
            folder,
            numeric,
            workers=self._workers,
            address=self._address,
            gpus=self._gpus(numeric),
        )
        try:
            with deferred():
                self._listener = self._new_listener(session)
            self._session = session
            yield session.workers
        finally:
            session.close(self._running)
            self._session = self._listener = None
            self._running = {}

    def run(
        self,
        function: Callable[[Job, Report], Outcome],
        jobs: Iterable[Job],
        report: Callable[[Job, float], None],
    ) -> Iterator[tuple[Job, Outcome | Lost]]:
        """See `Engine`. A job whose worker died `RETRIES` + 1 times is `Lost`."""
        session = self._session
        assert session is not None, "jobs are run inside `at`"
        waiting = list(jobs)[::-1]
        limit = self._workers or len(waiting)
        mine: dict[int, Job] = {}
        while waiting or mine:
            while waiting and len(mine) < limit:
                job = waiting.pop()
                mine[self._submit(session, function, job)] = job
            with deferred():
                finished, _ = session.ray.wait(list(self._running), timeout=POLL_S)
                shares = self._new_shares(session)
            for number, share in shares.items():
                if number in mine:
                    report(mine[number], share)
            for reference in finished:
                number = self._running.pop(reference)
                with deferred():
                    outcome = _outcome(session.ray, reference)
                yield mine.pop(number), outcome

    def _new_listener(self, session: Session) -> Any:
        """Start the actor that keeps jobs' progress, on this node, which stays while we do."""
        here = session.ray.get_runtime_context().get_node_id()
        listener = session.ray.remote(Listener).options(
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=session.on(here),
            runtime_env=session.environment(1),
        )
        return listener.remote()

    def _submit(
        self, session: Session, function: Callable[[Job, Report], Outcome], job: Job
    ) -> int:
        """Hand a job to Ray; return its number."""
        number, numeric = self._submitted, job.numeric
        task = session.ray.remote(work).options(
            num_cpus=numeric.threads,
            num_gpus=self._gpus(numeric),
            max_retries=RETRIES,
            runtime_env=session.environment(numeric.threads),
        )
        reference = task.remote(function, job, number, self._listener, session.likeness)
        self._running[reference] = number
        self._submitted += 1
        return number

    def _new_shares(self, session: Session) -> dict[int, float]:
        """Return shares by job's number since the last call; none while the listener restarts."""
        with suppress(session.ray.exceptions.RayError):
            shares: dict[int, float] = session.ray.get(self._listener.take.remote(), timeout=1.0)
            return shares
        return {}

    def _gpus(self, numeric: NumericSpec) -> float:
        return self._gpus_per_worker if numeric.device == "cuda" else 0


def work(
    function: Callable[[Job, Report], Outcome], job: Job, number: int, listener: Any, likeness: str
) -> Outcome:
    """Run one job on this node as a task, if it may take part, and report to the driver."""
    refuse_here(likeness)
    last_report = time.monotonic()

    def report(share: float) -> None:
        nonlocal last_report
        if time.monotonic() - last_report >= POLL_S:
            last_report = time.monotonic()
            listener.put.remote(number, share)

    return function(job, report)


class Listener:
    """An actor on the driver's node that keeps jobs' progress until the driver takes it.

    It holds nothing that matters: one that died is started again, empty.
    """

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}

    def put(self, number: int, share: float) -> None:
        """Keep the last share of a job."""
        self._shares[number] = share

    def take(self) -> dict[int, float]:
        """Return the shares that are new since the last call."""
        shares, self._shares = self._shares, {}
        return shares


def _outcome(ray: Any, reference: Any) -> Any:
    """Return a finished task's outcome, or `Lost`; raise what the function raised."""
    problems = ray.exceptions
    try:
        return ray.get(reference)
    except problems.RayTaskError as error:
        raise getattr(error, "cause", None) or error from None
    except problems.OutOfMemoryError:
        why = "its node ran out of memory"
        advice = "use fewer --workers or smaller networks"
    except (
        problems.WorkerCrashedError,
        problems.NodeDiedError,
        problems.LocalRayletDiedError,
        problems.ObjectLostError,
    ):
        why = "its worker was killed, crashed or lost its node"
        advice = "run again to resume from its saved work"
    except problems.RayError as error:
        raise KtbenchError(f"Ray: {one_line(error)}") from error
    return Lost(f"{why}, {RETRIES + 1} times: {advice}")
