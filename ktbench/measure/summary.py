"""Summary of an artifact's repeats: one measurement and one file of raw samples."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.devices.transport import agent_digest
from ktbench.measure.agent_schema import Bench
from ktbench.measure.energy_per_inference import Energy, energy_of, hottest, slowdown
from ktbench.measure.job import Job, measurement_id
from ktbench.measure.target import Target
from ktbench.measure.time_budget import P99_RUNS, Budget
from ktbench.measure.validity import agreement, judge
from ktbench.records import Measurement, Statistic
from ktbench.stats.percentiles import bounded_percentile
from ktbench.system.files import write_atomically

SAMPLES = "measurements/{id}.samples.parquet"


def summarise(
    target: Target,
    job: Job,
    threads: int,
    repeats: Sequence[Bench],
    folder: Path,
    started: str,
    budget: Budget | None = None,
) -> Measurement:
    """Return the measurement of these repeats; write their samples below the results folder.

    `budget` is what was asked for: a measurement of other counts is invalid.
    """
    name = SAMPLES.format(id=measurement_id(target.spec, job, threads))
    write_samples(folder / name, repeats)
    first, last = repeats[0], repeats[-1]
    p50, p90 = percentile(repeats, 0.5), percentile(repeats, 0.9)
    if p50 is None or p90 is None:  # a budget has runs enough for both
        raise ValueError("too few runs to bound a 90th percentile")
    long = min(len(answer.samples_ns) for answer in repeats) >= P99_RUNS
    pooled = np.concatenate([answer.milliseconds for answer in repeats])
    matched = agreement(first, job)
    peaks = [a.peak_memory_bytes for a in repeats if a.peak_memory_bytes is not None]
    builds = [a.build_ns / 1e6 for a in repeats if a.build_ns is not None]
    scenario = target.spec.scenario
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
        runs=len(pooled),
        repeats=len(repeats),
        load_ms=_over_repeats([answer.load_ns / 1e6 for answer in repeats]),
        first_ms=_over_repeats([answer.first_ns / 1e6 for answer in repeats]),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=percentile(repeats, 0.99) if long else None,
        mean_ms=float(pooled.mean()),
        stdev_ms=float(pooled.std(ddof=1)),
        peak_memory_bytes=max(peaks, default=None),
        build_ms=max(builds, default=None),
        inputs_per_s=throughput(repeats) if scenario == "offline" else None,
        **_energy(repeats),
        hottest_c=max((t for t in map(hottest, repeats) if t is not None), default=None),
        slowdown=max(map(slowdown, repeats)) if scenario == "sustained" else None,
        agreement=matched[0] if matched else None,
        checked_inputs=matched[1] if matched else 0,
        validity=judge(
            repeats,
            job,
            threads,
            gate_c=target.profile.start_below_c,
            sustained=scenario == "sustained",
            budget=budget,
        ),
        agent_digest=agent_digest()[:16],
        started=started,
    )


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
