"""What a matrix asks for that no weight depends on: exports, devices, where work is done.

None of it is in a cell's key.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ktbench.records.base import Record
from ktbench.records.printable import Flag, Line, Name, Number, Whole

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "fp16", "int8"]
Kept = Literal["logits", "embedding", "stages"]

MOST_THREADS = 1024
MOST_REPEATS = 10_000
MOST_WORKERS = 10_000
MOST_SECONDS = 1e7
"""Of a wait: a third of a year."""


class BlockRun(Record):
    """How blocks are given to workers; no weight depends on it, so it is in no key."""

    feed: Literal["relay", "prefix"] = "relay"
    """`relay`: one pass of the teacher feeds every block of a worker; `prefix`: every block runs
    the teacher up to itself again, as in the study."""
    schedule: Literal["longest_first", "contiguous", "queue"] = "longest_first"
    """`longest_first`: packed on the workers by measured times; `contiguous`: neighbours on one
    worker, cut where the slowest takes least, each handing its boundary on to the next; `queue`:
    whoever is free takes the next."""
    watts: Annotated[Number, Field(gt=0, le=1e6)] = 10.0
    """Of one busy core, for an estimate where the processor does not count its energy."""


class Limits(Record):
    """What the run of a matrix may take before it is ended; no weight depends on it."""

    step_seconds: Annotated[Number, Field(gt=0, le=MOST_SECONDS)] = 1800.0
    """The longest that one training step, validation or export may take: a network that hangs
    fails after so many seconds, and the others go on."""


class ExportSpec(Record):
    """One way to write a student down for a runtime."""

    format: Format
    precision: Precision = "fp32"
    batch: Literal["1", "dynamic"] = "1"
    opset: Annotated[Whole, Field(ge=13, le=23)] = 18
    """Of ONNX only: 18 by default, 13 to 15 for old boards."""

    @property
    def label(self) -> str:
        """Names the artifact's file: `onnx-int8`, `tflite-fp32-dynamic`, `onnx-fp32-opset13`."""
        parts: list[str] = [self.format, self.precision]
        parts += ["dynamic"] if self.batch == "dynamic" else []
        parts += [f"opset{self.opset}"] if self.format == "onnx" and self.opset != 18 else []
        return "-".join(parts)


class DeviceSpec(Record):
    """A device of the matrix: a profile of the catalogue, where it is, how it is measured."""

    added_later: ClassVar = frozenset(
        {"provider", "scenario", "batch_size", "governor", "power_mode"}
    )

    profile: str
    """A file of `devices/`: `local`, `ssh`, ..."""
    name: Name
    """What the report calls it; unique within the matrix."""
    host: Line | None = None
    """A host name or an alias of the user's SSH configuration; None for `local`."""
    python: Line = "python3"
    """The interpreter on the device that has numpy and a runtime; None of it is built into a
    shell string."""
    threads: Annotated[
        tuple[Annotated[Whole, Field(ge=1, le=MOST_THREADS)], ...], Field(min_length=1)
    ] = (1,)
    """Runtime threads; each value is measured on its own."""
    mode: Literal["quick", "full"] = "quick"
    """`quick`: 64 timed runs a repeat; `full`: at least 662 and 10 s (MLPerf LoadGen)."""
    repeats: Annotated[Whole, Field(ge=1, le=MOST_REPEATS)] = 3
    """Fresh processes per graph, interleaved over the graphs."""
    noise_check: Flag = False
    """Measure every cell's own artifact instead of one per distinct graph."""
    provider: Literal["cpu", "xnnpack", "cuda", "tensorrt"] = "cpu"
    """What the runtime is asked to run graphs with; a measurement that another one ran is
    invalid."""
    scenario: Literal["single_stream", "offline", "sustained"] = "single_stream"
    """`single_stream`: one input after the other; `offline`: batches, for their throughput;
    `sustained`: ten minutes on end in one process, for what heat makes of the latency."""
    batch_size: Annotated[Whole, Field(ge=1, le=1 << 16)] = 32
    """Of `offline`: inputs per run, of exports with `batch: dynamic`."""
    governor: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] | None = None
    """The processors' frequency governor while the board is measured, such as `performance`; it is
    set on the board and put back, and left as it is where none is named."""
    power_mode: Annotated[str, Field(pattern=r"^[A-Za-z0-9_ ]{1,40}$")] | None = None
    """A Jetson's power mode while it is measured, such as `MAXN`; set and put back likewise."""

    @property
    def settings(self) -> dict[str, str]:
        """What is to be set on the board, by the field's name."""
        asked = {"governor": self.governor, "power_mode": self.power_mode}
        return {name: value for name, value in asked.items() if value is not None}


class SourceSpec(Record):
    """How a teacher's outputs reach the students; no weight depends on it, so it is in no key."""

    source: Literal["live", "cached", "pool"] = "live"
    """`live`: the teacher runs for every batch; `cached`: what it said is kept on disk, and read
    when a batch comes again; `pool`: workers on a Ray cluster run it."""
    keep: Annotated[tuple[Kept, ...], Field(min_length=1)] = ("logits",)
    """What a cache keeps; methods that read more are served live."""
    cap_gb: Annotated[Number, Field(gt=0, le=1e9)] = 20.0
    """Most that all caches of this user may take on disk, in 10⁹ bytes; the least recently used
    make room."""
    cache: Flag = False
    """Of a pool: what workers said is kept too, as `cached` does."""
    workers: Annotated[Whole, Field(ge=0, le=MOST_WORKERS)] = 0
    """Of a pool: started for the run, beside those that join with `ktbench teacher serve`."""
    most_workers: Annotated[Whole, Field(ge=0, le=MOST_WORKERS)] = 0
    """Of a pool: started at most, where students wait for teachers; never less than `workers`."""
    wait_seconds: Annotated[Number, Field(gt=0, le=MOST_SECONDS)] = 300.0
    """Of a pool: how long a training waits while no worker is there."""
    address: Line | None = None
    """Of a pool: the Ray cluster, `auto` or HOST:PORT; its own one in this process when not given
    and `workers` are asked for."""

    @property
    def caches(self) -> bool:
        """Whether outputs are kept on disk."""
        return self.source == "cached" or self.cache
