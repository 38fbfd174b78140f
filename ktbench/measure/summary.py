"""The repeats of an artifact on a device become one measurement and one file of raw samples."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from devices.transport import agent_digest
from ktbench.files import write_atomically
from ktbench.measure.answers import Bench
from ktbench.measure.budget import P99_RUNS
from ktbench.measure.job import Job, measurement_id
from ktbench.measure.target import Target
from ktbench.measure.validity import agreement, judge
from ktbench.percentiles import bounded_percentile
from ktbench.records import Measurement, Statistic

SAMPLES = "measurements/{id}.samples.parquet"


def summarise(
    target: Target, job: Job, threads: int, repeats: Sequence[Bench], folder: Path, started: str
) -> Measurement:
    """The measurement of these repeats; their samples are written below the results folder."""
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
        load_ms=_over_repeats([answer.load_ns for answer in repeats]),
        first_ms=_over_repeats([answer.first_ns for answer in repeats]),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=percentile(repeats, 0.99) if long else None,
        mean_ms=float(pooled.mean()),
        stdev_ms=float(pooled.std(ddof=1)),
        peak_memory_bytes=max(peaks, default=None),
        agreement=matched[0] if matched else None,
        checked_inputs=matched[1] if matched else 0,
        validity=judge(repeats, job, threads),
        agent_digest=agent_digest()[:16],
        started=started,
    )


def percentile(repeats: Sequence[Bench], fraction: float) -> Statistic | None:
    """A percentile over all repeats with 95 % bounds, in milliseconds; None for too few runs.

    The bounds are those of the pooled order statistics, widened to hold each repeat's own
    percentile: the runs of one process resemble each other more than those of two, so the pooled
    bounds alone would be too tight.
    """
    pooled = bounded_percentile(np.concatenate([a.milliseconds for a in repeats]), fraction)
    if pooled is None:
        return None
    own = [float(np.quantile(a.milliseconds, fraction, method="inverted_cdf")) for a in repeats]
    return Statistic(value=pooled.value, low=min(pooled.low, *own), high=max(pooled.high, *own))


def _over_repeats(nanoseconds: Sequence[int]) -> Statistic:
    """Median of the repeats between the least and the greatest, in milliseconds."""
    values = np.asarray(nanoseconds, dtype=np.float64) / 1e6
    return Statistic(
        value=float(np.median(values)), low=float(values.min()), high=float(values.max())
    )


def write_samples(path: Path, repeats: Sequence[Bench]) -> None:
    """Every timed run as (repeat, index, seconds); what was had once per repeat as metadata."""
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
