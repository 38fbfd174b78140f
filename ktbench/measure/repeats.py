"""Measurement of artifacts on one device, in turns, each repeat in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ktbench.devices._contract import AnswerError, DeviceError, Lease, Transport
from ktbench.measure.agent_schema import Bench
from ktbench.measure.job import Job
from ktbench.measure.retry import patiently
from ktbench.measure.summary import summarise
from ktbench.measure.target import Target, Turn, architecture_problem, opened, unreadable
from ktbench.measure.time_budget import Budget, budget_of
from ktbench.records import DeviceSpec, Failure, Measurement

TURNS = 16
"""Number of artifacts that take turns; a killed run loses no more than these."""

Progress = Callable[[int, int], None]
"""Receives the number of repeats done and their total."""


@dataclass
class _Row:
    """An artifact with a thread count, and the results of its repeats so far."""

    job: Job
    threads: int
    repeats: list[Bench] = field(default_factory=list)
    reason: str | None = None
    started: str = ""


def measure(
    device: DeviceSpec,
    jobs: Sequence[Job],
    folder: Path,
    *,
    progress: Progress | None = None,
    budget: Budget | None = None,
    transport: Transport | None = None,
) -> Iterator[Measurement | Failure]:
    """Yield one measurement or failure per job and thread count, in the order of both.

    Raw samples go to `measurements/` of the results folder. A device that cannot be reached, or
    is none of its profile, fails every job with that reason. `budget` replaces the one of the
    device's mode, `transport` the way to it.
    """
    rows = [_Row(job, threads) for job in jobs for threads in device.threads]
    if not rows:
        return
    session = _Session(device, budget or budget_of(device), folder, progress, len(rows))
    try:
        with opened(device, transport, Lease.of(folder)) as target:
            problem = architecture_problem(target, target.probe())
            if problem:
                raise DeviceError(problem)
            for start in range(0, len(rows), TURNS):
                yield from session.measure(target, rows[start : start + TURNS])
    except DeviceError as error:
        for row in rows[session.yielded :]:
            yield session.failure(row, row.reason or str(error))


class _Session:
    """State that all artifacts of one call share."""

    def __init__(
        self,
        device: DeviceSpec,
        budget: Budget,
        folder: Path,
        progress: Progress | None,
        rows: int,
    ) -> None:
        self._device = device
        self._budget = budget
        self._folder = folder
        self._progress = progress
        self._done = 0
        self._total = rows * device.repeats
        self.yielded = 0

    def failure(self, row: _Row, reason: str) -> Failure:
        """Return the failure of a row that has no measurement."""
        self.yielded += 1
        threads = f", {row.threads} threads" if len(self._device.threads) > 1 else ""
        what = f"{row.job.export.label} on {self._device.name}{threads}"
        return Failure(stage="measure", what=what, reason=reason)

    def measure(self, target: Target, rows: Sequence[_Row]) -> Iterator[Measurement | Failure]:
        """Measure rows in turns; DeviceError if the device is lost, after the complete ones."""
        for row in rows:
            row.started = row.started or datetime.now(UTC).isoformat(timespec="seconds")
            row.reason = target.refusal(row.job) or unreadable(row.job)
            if row.reason:
                self._tell(self._device.repeats)
        repeats, lost = range(self._device.repeats), None
        try:
            self._repeat(target, [(row, n) for n in repeats for row in rows if row.reason is None])
        except DeviceError as error:
            lost = error
        for row in rows:
            if lost is not None and row.reason is None and len(row.repeats) < len(repeats):
                row.reason = str(lost)
            yield self._result(target, row)
        if lost is not None:
            raise lost

    def _result(self, target: Target, row: _Row) -> Measurement | Failure:
        if row.reason is not None:
            return self.failure(row, row.reason)
        about = (row.job, row.threads, row.repeats, self._folder, row.started)
        measurement = summarise(target, *about, self._budget)
        self.yielded += 1
        return measurement

    def _repeat(self, target: Target, turns: Sequence[tuple[_Row, int]]) -> None:
        """Run all repeats; those that a lost connection cut short are retried for a while.

        A malformed answer fails the artifact at work, and no other.
        """
        left = list(turns)

        def go_on() -> None:
            turns_left = [Turn(row.job, row.threads, repeat) for row, repeat in left]
            try:
                for answer in target.series(turns_left, self._budget):
                    self._take(left.pop(0)[0], answer)
            except AnswerError as error:
                at_work = left[0][0]
                for _ in [row for row, _ in left if row is at_work]:
                    self._take(at_work, error)
                left[:] = [turn for turn in left if turn[0] is not at_work]
            except DeviceError as error:
                if not error.lost or len(left) == len(turns_left):
                    raise  # a loss after an answer is another one: it is waited for again

        while left:
            patiently(go_on)

    def _take(self, row: _Row, answer: Bench | DeviceError) -> None:
        """Record one repeat's answer; the first failure is the row's reason."""
        if isinstance(answer, DeviceError):
            row.reason = row.reason or str(answer)
        else:
            row.repeats.append(answer)
        self._tell()

    def _tell(self, repeats: int = 1) -> None:
        self._done += repeats
        if self._progress:
            self._progress(self._done, self._total)
