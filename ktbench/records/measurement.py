"""Measurements on devices, the statistics of their samples, and their validity."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from ktbench.records.base import Record, digest_of, without_unset
from ktbench.records.bounds import (
    Amount,
    Count,
    Facts,
    Figure,
    Inside,
    Moment,
    Name,
    Positive,
    Share,
    Words,
)
from ktbench.records.run_options import DeviceSpec, ExportSpec

Origin = Literal["measured", "emulated", "estimated"]


class Statistic(Record):
    """One figure with the bounds of its interval."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _in_its_interval(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError("lies outside its own interval")
        return self


class Validity(Record):
    """Verdict on a measurement: any reason makes it invalid, a warning does not."""

    reasons: tuple[Words, ...] = ()
    warnings: tuple[Words, ...] = ()

    @property
    def valid(self) -> bool:
        """True when nothing speaks against the figure."""
        return not self.reasons


_NEVER_NEGATIVE = (
    *("load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms"),
    *("inputs_per_s", "energy_mj", "power_w", "idle_w"),
)


class Kernels(Record):
    """Arithmetic of an int8 file's layers on a device, read back from its runtime.

    Layers are convolutions and products with a matrix of weights.
    """

    integer: Count
    """Layers that ran as integers."""
    layers: Count
    vnni: bool | None = None
    """True where an x86 processor has instructions whose sums of products cannot saturate."""

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.integer > self.layers:
            raise ValueError("more layers ran as integers than there are")
        return self


class Measurement(Record):
    """One graph on one device with one thread count, every figure computed from stored samples."""

    device: DeviceSpec
    origin: Origin
    graph_key: Name
    cell_key: Name
    """The cell whose artifact was run; cells with the same graph share its latency."""
    export: ExportSpec
    artifact_digest: Name
    threads: Positive
    batch: Positive
    runtime: Words
    runtime_version: Words
    provider: Words
    """The execution provider or delegate that really ran, read back from the session."""
    board: Facts
    """Facts of the device as its agent reported them; an absent sensor is absent here too."""
    state_before: Facts
    state_after: Facts
    samples: Inside
    """Parquet of raw samples (repeat, index, seconds), relative to the results folder."""
    runs: Positive
    repeats: Positive
    load_ms: Statistic
    first_ms: Statistic
    p50_ms: Statistic
    p90_ms: Statistic
    p99_ms: Statistic | None
    """99th percentile; None where too few runs were timed to bound it."""
    mean_ms: Amount
    stdev_ms: Amount
    peak_memory_bytes: Count | None
    build_ms: Amount | None = None
    """Time to compile an engine, where none was cached; not part of `load_ms`."""
    inputs_per_s: Statistic | None = None
    """Throughput over the steady state, in the offline scenario."""
    energy_mj: Statistic | None = None
    """Millijoules of the whole board per inference: median, least and greatest of the repeats; None
    without power readings over a long enough steady state."""
    energy_net_mj: Statistic | None = None
    """The same less the energy of the idle board in that time, measured right before."""
    power_w: Statistic | None = None
    """Mean power of the board during the steady state."""
    idle_w: Statistic | None = None
    """Mean power of the idle board, before the model was loaded."""
    power_source: Words | None = None
    """Sensor of the power, and the rails that were added up."""
    hottest_c: float | None = None
    """Highest temperature during the steady state, or before and after it."""
    slowdown: Amount | None = None
    """Median latency of the last tenth of the steady state over that of the first, in the sustained
    scenario."""
    agreement: Share | None = None
    """Share of the checked inputs on which the device and the reference name the same class; None
    where there was no reference."""
    checked_inputs: Count = 0
    """Inputs whose outputs on the device were compared with the reference."""
    test_accuracy: Figure | None = None
    """The task's metric on the device over the test set; None where it was not asked for."""
    test_agreement: Share | None = None
    """Share of the test set on which the device and torch name the same class."""
    test_inputs: Count = 0
    """Images of the test set that the device classified."""
    validity: Validity
    agent_digest: Name
    started: Moment
    """UTC, ISO 8601."""
    kernels: Kernels | None = None
    """Arithmetic of an int8 file's layers, from a run of its own; None for other precisions, where
    the runtime does not tell, and in older records."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is only known of int8 files."""
        return without_unset(plain(self), "kernels")

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        """Refuse negative times, powers and rates, falling percentiles, repeats without a run."""
        for name in _NEVER_NEGATIVE:
            statistic: Statistic | None = getattr(self, name)
            if statistic is not None and statistic.low < 0:
                raise ValueError(f"{name} is negative")
        rising = [p.value for p in (self.p50_ms, self.p90_ms, self.p99_ms) if p is not None]
        if rising != sorted(rising):
            raise ValueError("p50_ms, p90_ms and p99_ms do not rise")
        if self.repeats > self.runs:
            raise ValueError("has more repeats than runs")
        return self

    @property
    def comparability(self) -> str:
        """Digest of the conditions: measurements with different ones are never pooled."""
        return digest_of(
            {
                "device": self.device.name,
                "origin": self.origin,
                "board": self.board,
                "runtime": [self.runtime, self.runtime_version, self.provider],
                "threads": self.threads,
                "batch": self.batch,
                "governor": self.state_before.get("governor"),
                "power_mode": self.state_before.get("power_mode"),
            }
        )
