"""Options not hashed into the cell key: exports, devices, limits, and where work is done."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ktbench.records.base import Record, digest_of
from ktbench.records.printable import Flag, Line, Name, Number, Whole

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "fp16", "int8"]
Quantisation = Literal["static", "dynamic"]
Activations = Literal["signed", "unsigned"]
Calibration = Literal["minmax", "percentile", "mse"]
Correction = Literal["equalise", "bias"]
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,100}$")]
Kept = Literal["logits", "embedding", "stages", "stem", "attentions"]

MOST_THREADS = 1024
MOST_REPEATS = 10_000
MOST_WORKERS = 10_000
MOST_SECONDS = 1e7
"""Longest wait: a third of a year."""


class BlockRun(Record):
    """Distribution of blocks over workers; weights do not depend on it, so it is in no key."""

    feed: Literal["relay", "prefix"] = "relay"
    """`relay`: one pass of the teacher feeds every block of a worker; `prefix`: every block runs
    the teacher up to itself again, as in the study."""
    schedule: Literal["longest_first", "contiguous", "queue"] = "longest_first"
    """Assignment of blocks to workers. `longest_first`: by measured times; `contiguous`: neighbours
    together, split so that the slowest worker is fastest, each handing its boundary on;
    `queue`: a free worker takes the next."""
    watts: Annotated[Number, Field(gt=0, le=1e6)] = 10.0
    """Power of one busy core, to estimate energy where the processor does not count it."""


LEAST_SEEDS = 3
"""Seeds below which there is no verdict."""
MOST_SEEDS = 10_000


class SeedRace(Record):
    """Seeds that each comparison gets one by one, as long as they may decide it; in no key."""

    start: Annotated[Whole, Field(ge=LEAST_SEEDS, le=MOST_SEEDS)] = LEAST_SEEDS
    """Seeds that every comparison begins with."""
    most: Annotated[Whole, Field(ge=LEAST_SEEDS, le=MOST_SEEDS)] = 20
    """Seeds of a comparison at most."""
    decide: Flag = True
    """Add seeds after the first ones; `false` stops there, and a later run can go on."""

    @model_validator(mode="after")
    def _ordered(self) -> SeedRace:
        if self.start > self.most:
            raise ValueError(f"start must be at most {self.most} (most), not {self.start}")
        return self


class Limits(Record):
    """Limits at which a training that hangs is ended; weights do not depend on them."""

    step_seconds: Annotated[Number, Field(gt=0, le=MOST_SECONDS)] = 1800.0
    """Longest time of one training step, validation or export: a network that hangs
    fails after that time, and the others continue."""


class ExportSpec(Record):
    """One way to export a student for a runtime.

    What follows the opset concerns int8 alone.
    """

    added_later: ClassVar = frozenset(
        {"activations", "reduce_range", "calibration", "correct", "keep", "sensitivity"}
    )

    format: Format
    precision: Precision = "fp32"
    batch: Literal["1", "dynamic"] = "1"
    opset: Annotated[Whole, Field(ge=13, le=23)] = 18
    """Opset of ONNX files: 18 by default, 13 to 15 for old boards."""
    activations: Activations = "signed"
    """Type of the activations of ONNX files: x86 processors run all layers as integers if it is
    `unsigned`."""
    reduce_range: Flag = False
    """Weights of ONNX files with 7 bits, so that sums cannot saturate on an x86 processor without
    VNNI."""
    calibration: Calibration = "minmax"
    """Origin of a range: least and greatest value, all but one value in 10,000, or the least mean
    squared error."""
    correct: tuple[Correction, ...] = ()
    """Changes of the weights beforehand: `equalise` the channels of successive layers, correct the
    `bias` by the mean error of the rounded weights."""
    keep: tuple[LayerName, ...] = ()
    """Layers that stay float32: `stem` is the first, `head` the last, others go by their module."""
    sensitivity: Flag = False
    """Measure what each layer loses when it alone is quantised; the file does not depend on it."""

    @property
    def label(self) -> str:
        """Names the artifact's file: `onnx-int8`, `tflite-fp32-dynamic`, `onnx-fp32-opset13`."""
        parts: list[str] = [self.format, self.precision]
        parts += ["dynamic"] if self.batch == "dynamic" else []
        parts += [f"opset{self.opset}"] if self.format == "onnx" and self.opset != 18 else []
        parts += ["unsigned"] if self.activations == "unsigned" else []
        parts += ["7bit"] if self.reduce_range else []
        parts += [self.calibration] if self.calibration != "minmax" else []
        parts += self.correct
        kept = "-".join(self.keep)
        parts += ["keep", kept if len(kept) <= 40 else digest_of(list(self.keep))] if kept else []
        return "-".join(parts)

    def file_settings(self) -> dict[str, Any]:
        """Return what the file depends on, as JSON values."""
        return self.model_dump(mode="json", exclude={"sensitivity"})

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave later settings unsaid at their default, so that older records stay as they are."""
        silent = self._silent()
        return {name: value for name, value in plain(self).items() if name not in silent}


class DeviceSpec(Record):
    """A device of the matrix: a profile of the catalogue, where it is, how it is measured."""

    added_later: ClassVar = frozenset(
        {"provider", "scenario", "batch_size", "governor", "power_mode"}
    )

    profile: str
    """A file of `devices/`: `local`, `ssh`, ..."""
    name: Name
    """Name in the report; unique within the matrix."""
    host: Line | None = None
    """A host name or an alias of the user's SSH configuration; None for `local`."""
    python: Line = "python3"
    """The interpreter on the device that has numpy and a runtime; it is never part of a shell
    string."""
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
    """Execution provider requested of the runtime; a measurement that another one ran is
    invalid."""
    scenario: Literal["single_stream", "offline", "sustained"] = "single_stream"
    """`single_stream`: one input after the other; `offline`: batches, for their throughput;
    `sustained`: ten minutes on end in one process, for what heat makes of the latency."""
    batch_size: Annotated[Whole, Field(ge=1, le=1 << 16)] = 32
    """Inputs per run in the `offline` scenario, for exports with `batch: dynamic`."""
    governor: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] | None = None
    """Frequency governor of the processors during a measurement, such as `performance`: it is set
    on the board and restored; without a value it is left alone."""
    power_mode: Annotated[str, Field(pattern=r"^[A-Za-z0-9_ ]{1,40}$")] | None = None
    """Power mode of a Jetson during a measurement, such as `MAXN`; set and restored likewise."""

    @property
    def settings(self) -> dict[str, str]:
        """Settings to apply to the board, by field name."""
        settings = {"governor": self.governor, "power_mode": self.power_mode}
        return {name: value for name, value in settings.items() if value is not None}


class SourceSpec(Record):
    """Source of the teacher's outputs; weights do not depend on it, so it is in no key."""

    source: Literal["live", "cached", "pool"] = "live"
    """`live`: the teacher runs for every batch; `cached`: its outputs are stored on disk and read
    when a batch comes again; `pool`: workers on a Ray cluster run it."""
    keep: Annotated[tuple[Kept, ...], Field(min_length=1)] = ("logits",)
    """Outputs that a cache stores; methods that read more are served live."""
    cap_gb: Annotated[Number, Field(gt=0, le=1e9)] = 20.0
    """Disk quota of all caches of this user, in 10⁹ bytes; the least recently used are evicted."""
    cache: Flag = False
    """Store the outputs of a pool's workers too, as `cached` does."""
    workers: Annotated[Whole, Field(ge=0, le=MOST_WORKERS)] = 0
    """Workers that a pool starts, beside those that join with `ktbench teacher serve`."""
    most_workers: Annotated[Whole, Field(ge=0, le=MOST_WORKERS)] = 0
    """Most workers that a pool starts while students wait for teachers; at least `workers`."""
    wait_seconds: Annotated[Number, Field(gt=0, le=MOST_SECONDS)] = 300.0
    """Time that a training waits while its pool has no worker."""
    address: Line | None = None
    """Ray cluster of a pool, `auto` or HOST:PORT; when not given and `workers` are asked for, one
    is started in this process."""

    @property
    def caches(self) -> bool:
        """True where outputs are stored on disk."""
        return self.source == "cached" or self.cache
