"""Measurement of artifacts on one device, in turns, each repeat in a fresh process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.devices._contract import AnswerError, DeviceError, Lease, Transport
from ktbench.devices.transport import agent_digest
from ktbench.measure.agent_schema import Bench
from ktbench.measure.energy_per_inference import Energy, energy_of, hottest, slowdown
from ktbench.measure.job import Job, measurement_id
from ktbench.measure.retry import patiently
from ktbench.measure.target import Target, Turn, architecture_problem, opened, unreadable
from ktbench.measure.time_budget import P99_RUNS, Budget, budget_of
from ktbench.measure.validity import agreement, judge
from ktbench.records import DeviceSpec, Failure, Kernels, Measurement, Statistic
from ktbench.stats.percentiles import bounded_percentile
from ktbench.system.files import write_atomically

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
        self._arithmetic: dict[str, Kernels] = {}
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
            self._kernels(target, [row.job for row in rows if row.reason is None])
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
        kernels = self._arithmetic.get(row.job.digest)
        measurement = _summary(target, row, self._folder, self._budget, kernels)
        self.yielded += 1
        return measurement

    def _kernels(self, target: Target, jobs: Sequence[Job]) -> None:
        """Read back in which arithmetic int8 files run, once nothing is timed any more.

        A device that cannot tell has no such figures; its latencies stay what they are.
        """
        lacking = {
            job.digest: job
            for job in jobs
            if job.export.precision == "int8" and job.digest not in self._arithmetic
        }
        for form in sorted({job.export.format for job in lacking.values()}):
            group = [job for job in lacking.values() if job.export.format == form]
            with suppress(DeviceError):
                self._arithmetic |= target.kernels(group)

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


# ---------------------------------------------------------------- the summary of an artifact

SAMPLES = "measurements/{id}.samples.parquet"


def _summary(
    target: Target, row: _Row, folder: Path, budget: Budget, kernels: Kernels | None
) -> Measurement:
    """Return the measurement of a row's repeats; write their samples below the results folder."""
    job, threads, repeats = row.job, row.threads, row.repeats
    name = SAMPLES.format(id=measurement_id(target.spec, job, threads))
    write_samples(folder / name, repeats)
    first, last = repeats[0], repeats[-1]
    matched = agreement(first, job)
    scenario = target.spec.scenario
    sustained = scenario == "sustained"
    gate = target.profile.start_below_c
    return Measurement(
        device=target.spec,
        origin=target.origin,
        graph_key=job.graph_key,
        cell_key=job.cell_key,
        export=job.export,
        artifact_digest=job.digest,
        threads=threads,
        batch=first.batch,
        runtime=first.runtime,
        runtime_version=first.runtime_version,
        provider=first.provider,
        board=first.board,
        state_before=first.state_before,
        state_after=last.state_after,
        samples=name,
        repeats=len(repeats),
        **_times(repeats),
        **_resources(repeats),
        **_energy(repeats),
        inputs_per_s=throughput(repeats) if scenario == "offline" else None,
        slowdown=max(map(slowdown, repeats)) if sustained else None,
        agreement=matched[0] if matched else None,
        checked_inputs=matched[1] if matched else 0,
        validity=judge(
            repeats,
            job,
            threads,
            gate_c=gate,
            sustained=sustained,
            budget=budget,
            kernels=kernels,
        ),
        kernels=kernels,
        agent_digest=agent_digest()[:16],
        started=row.started,
    )


def _times(repeats: Sequence[Bench]) -> dict[str, Any]:
    """Return the fields of latency; too few runs raise ValueError."""
    p50, p90 = percentile(repeats, 0.5), percentile(repeats, 0.9)
    if p50 is None or p90 is None:  # a budget has runs enough for both
        raise ValueError("too few runs to bound a 90th percentile")
    long = min(len(answer.samples_ns) for answer in repeats) >= P99_RUNS
    pooled = np.concatenate([answer.milliseconds for answer in repeats])
    return {
        "runs": len(pooled),
        "load_ms": _over_repeats([answer.load_ns / 1e6 for answer in repeats]),
        "first_ms": _over_repeats([answer.first_ns / 1e6 for answer in repeats]),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": percentile(repeats, 0.99) if long else None,
        "mean_ms": float(pooled.mean()),
        "stdev_ms": float(pooled.std(ddof=1)),
    }


def _resources(repeats: Sequence[Bench]) -> dict[str, Any]:
    """Return the largest memory, time to build an engine and temperature of the repeats."""
    peaks = [a.peak_memory_bytes for a in repeats if a.peak_memory_bytes is not None]
    builds = [a.build_ns / 1e6 for a in repeats if a.build_ns is not None]
    degrees = [t for t in map(hottest, repeats) if t is not None]
    return {
        "peak_memory_bytes": max(peaks, default=None),
        "build_ms": max(builds, default=None),
        "hottest_c": max(degrees, default=None),
    }


def percentile(repeats: Sequence[Bench], fraction: float) -> Statistic | None:
    """Return a percentile over all repeats with 95 % bounds, in milliseconds, or None.

    The bounds are those of the pooled order statistics, widened to hold each repeat's own
    percentile: the runs of one process resemble each other more than those of two, so the pooled
    bounds alone would be too tight.
    """
    pooled = bounded_percentile(np.concatenate([a.milliseconds for a in repeats]), fraction)
    if pooled is None:
        return None
    each = [float(np.quantile(a.milliseconds, fraction, method="inverted_cdf")) for a in repeats]
    return Statistic(value=pooled.value, low=min(pooled.low, *each), high=max(pooled.high, *each))


def throughput(repeats: Sequence[Bench]) -> Statistic:
    """Return inputs per second over each repeat's steady state."""
    return _over_repeats([1e3 * a.batch / float(a.milliseconds.mean()) for a in repeats])


def _energy(repeats: Sequence[Bench]) -> dict[str, Any]:
    """Return the fields of energy and power; a figure that a repeat lacks is left out."""
    telemetry = repeats[0].telemetry
    energies = [energy for answer in repeats if (energy := energy_of(answer)) is not None]
    if len(energies) < len(repeats) or telemetry is None:
        return {}
    fields: dict[str, Callable[[Energy], float | None]] = {
        "energy_mj": lambda e: e.energy_mj,
        "energy_net_mj": lambda e: e.net_mj,
        "power_w": lambda e: e.power_w,
        "idle_w": lambda e: e.idle_w,
    }
    figures: dict[str, Any] = {"power_source": f"{telemetry.source}: {' + '.join(telemetry.total)}"}
    for name, value_of in fields.items():
        values = [value for value in map(value_of, energies) if value is not None]
        figures[name] = _over_repeats(values) if len(values) == len(energies) else None
    return figures


def _over_repeats(figures: Sequence[float]) -> Statistic:
    """Return the median of the repeats, between the least and the greatest."""
    values = np.asarray(figures, dtype=np.float64)
    return Statistic(
        value=float(np.median(values)), low=float(values.min()), high=float(values.max())
    )


def write_samples(path: Path, repeats: Sequence[Bench]) -> None:
    """Write each timed run as (repeat, index, seconds), and all else of a repeat as metadata."""
    once = [answer.model_dump(mode="json", exclude={"samples_ns", "outputs"}) for answer in repeats]
    table = pa.table(
        {
            "repeat": pa.array(
                np.repeat(np.arange(len(repeats)), [len(a.samples_ns) for a in repeats]),
                pa.int16(),
            ),
            "index": pa.array(
                np.concatenate([np.arange(len(a.samples_ns)) for a in repeats]), pa.int32()
            ),
            "seconds": pa.array(np.concatenate([a.milliseconds / 1e3 for a in repeats])),
        }
    ).replace_schema_metadata({"ktbench.repeats": json.dumps(once)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
