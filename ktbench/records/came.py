"""What came of it: checkpoints, artifacts, measurements, results, and what went wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from ktbench.records.asked import Cell
from ktbench.records.base import SCHEMA, Record, digest_of
from ktbench.records.unkeyed import DeviceSpec, ExportSpec

Stage = Literal["plan", "data", "teacher", "train", "export", "measure"]
Origin = Literal["measured", "emulated", "estimated"]


class Failure(Record):
    """Something that was tried and did not work, and why."""

    stage: Stage
    reason: str
    what: str = ""
    """The part concerned: an export's label, a device's name; empty for the whole cell."""
    step: int | None = None
    """Training step at which it happened."""


class Cost(Record):
    """What a training took, split so that shared work is not counted as saved.

    `seconds` and `flops` are what the cell would take alone without the teacher's part; the
    teacher's forward is `teacher_*`; `shared_seconds` is the share of the clock that really
    passed (a cohort divides its teacher pass and its data work among its students).
    """

    seconds: float
    teacher_seconds: float
    shared_seconds: float
    flops: int
    teacher_flops: int


class Accuracies(Record):
    """Top-1 accuracies in [0, 1]; `best` is chosen on validation, test is read once, at the end."""

    validation_last: float
    validation_best: float
    best_epoch: int
    test_last: float
    test_best: float


LayoutName = Literal["channels_last", "contiguous", "contiguous_without_onednn"]


class LayoutUsed(Record):
    """How a network's tensors lay in memory while it was trained."""

    name: LayoutName
    reason: str | None = None
    """Why it was not the first choice, `channels_last`, or what the matrix asks for."""
    checked: bool = False
    """Whether a training step in it was compared with a double-precision reference, on this kind
    of machine."""


class ArithmeticVerdict(Record):
    """Whether a training step of a network is computed rightly on one kind of machine."""

    layout: LayoutName
    layout_reason: str | None = None
    """Why the network's own layers ask for another than the first choice."""
    right: bool | None
    """None: the network could not be run; what it raised stands in `reason`."""
    reason: str = ""
    worst: float = 0.0
    """The largest difference of an operation from its reference over what rounding explains."""
    operations: int = 0
    """How many were compared."""
    images: int
    """In the batch."""
    seconds: float


class Checkpoint(Record):
    """A trained student: where its weights are and how it got there."""

    cell_key: str
    path: str
    """Weights (`torch.load(..., weights_only=True)`), relative to the results folder."""
    digest: str
    """SHA-256 (16 digits) of the weights' names, shapes and bytes: the bit-for-bit invariant."""
    curves: str
    """Parquet of the per-epoch curves, relative to the results folder."""
    parameters: int
    epochs: int
    accuracy: Accuracies
    cost: Cost
    layout: LayoutUsed | None = None
    """None in records of the first schema: channels-last, not checked."""


class Tolerance(Record):
    """How far an artifact may be from torch before it is a failure."""

    agreement: float
    """Least share of validation images with the same top-1 class."""
    difference: float | None
    """Largest allowed absolute difference of logits, relative to the logits' standard deviation;
    None where only agreement is judged."""


class Artifact(Record):
    """An exported student, and the proof that it is the same network."""

    cell_key: str
    export: ExportSpec
    graph_key: str
    """Equal for artifacts that differ only in their weights."""
    path: str
    """Relative to the results folder; its sidecar lies beside it with `.json` added."""
    digest: str
    bytes: int
    input_shape: tuple[int, ...]
    """Of one raw image as the artifact takes it: (C, H, W) for ONNX, (H, W, C) for TFLite."""
    agreement: float
    """Share of the validation set on which artifact and torch name the same class."""
    max_difference: float
    """Largest absolute difference of logits over the validation set."""
    tolerance: Tolerance
    validation_accuracy: float
    test_accuracy: float
    runtime: str
    """Runtime and version that the check ran in."""
    seconds: float
    """What exporting and checking took."""


class Statistic(Record):
    """One figure with the bounds of its interval."""

    value: float
    low: float
    high: float


class Validity(Record):
    """Whether a measurement can be trusted: any reason makes it invalid."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """True when nothing speaks against the figure."""
        return not self.reasons


class Measurement(Record):
    """One graph on one device with one thread count: every figure comes from kept samples."""

    device: DeviceSpec
    origin: Origin
    graph_key: str
    cell_key: str
    """The cell whose artifact was run; latency belongs to the graph, so others share it."""
    export: ExportSpec
    artifact_digest: str
    threads: int
    batch: int
    runtime: str
    runtime_version: str
    provider: str
    """The execution provider or delegate that really ran, read back from the session."""
    board: dict[str, JsonValue]
    """Facts of the device as its agent found them; an absent sensor is absent here too."""
    state_before: dict[str, JsonValue]
    state_after: dict[str, JsonValue]
    samples: str
    """Parquet of raw samples (repeat, index, seconds), relative to the results folder."""
    runs: int
    repeats: int
    load_ms: Statistic
    first_ms: Statistic
    p50_ms: Statistic
    p90_ms: Statistic
    p99_ms: Statistic | None
    """None where too few runs were timed to bound it."""
    mean_ms: float
    stdev_ms: float
    peak_memory_bytes: int | None
    build_ms: float | None = None
    """Compiling an engine, where the provider does so and none was kept; no part of `load_ms`."""
    inputs_per_s: Statistic | None = None
    """Throughput over the steady state; of the offline scenario."""
    energy_mj: Statistic | None = None
    """Millijoules of the whole board per inference; None without power readings of a steady state
    long enough. The value is the median over the repeats between the least and the greatest."""
    energy_net_mj: Statistic | None = None
    """The same without what the idle board takes in that time, measured right before."""
    power_w: Statistic | None = None
    """Mean power of the board during the steady state."""
    idle_w: Statistic | None = None
    """Mean power of the idle board, before the model was loaded."""
    power_source: str | None = None
    """The sensor, and the rails that were added up."""
    hottest_c: float | None = None
    """The highest temperature seen beside the steady state, or before and after it."""
    slowdown: float | None = None
    """Median of the last tenth of the steady state's time over that of the first tenth; of the
    sustained scenario."""
    agreement: float | None = None
    """Share of the checked inputs on which the device and the reference name the same class; None
    where there was no reference."""
    checked_inputs: int = 0
    """Inputs whose outputs on the device were compared with the reference."""
    test_accuracy: float | None = None
    """Top-1 accuracy on the device over the test set; None where it was not asked for."""
    test_agreement: float | None = None
    """Share of the test set on which the device and torch name the same class."""
    test_inputs: int = 0
    """Images of the test set that the device was asked."""
    validity: Validity
    agent_digest: str
    started: str
    """UTC, ISO 8601."""

    @property
    def comparability(self) -> str:
        """Measurements with different values here are never pooled."""
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


class Provenance(Record):
    """Where and with what a record was made."""

    ktbench: str
    commit: str | None
    python: str
    machine: str
    processor: str
    cores: int
    system: str
    versions: dict[str, str]
    instruction_set: str | None = None
    """That the kernels of torch and of oneDNN use; None in older records, and where unknown."""
    data_digest: str | None = None
    created: str


class Try(Record):
    """A block in the teacher's place once, on the validation set."""

    epoch: int
    accuracy: float
    """Of the whole network, top-1."""
    loss: float
    """Mean squared error over the target's variance about its channels' means: 1 is what the best
    constant per channel reaches."""


class BlockResult(Record):
    """A block's replacement, trained alone to give the block's output from the block's input."""

    key: str
    """Names the training: equal for every student that shares it."""
    block: str
    """Path of the block's first module in the teacher."""
    replacement: str
    """Name and settings of what stands for it."""
    parameters_before: int
    parameters: int
    epochs: int
    """That were trained; fewer than asked for where `stopped` says so."""
    stopped: Literal["epochs", "patience", "diverged"]
    """Why it ended: all epochs, tries without a gain, or a loss that was not finite."""
    best_epoch: int
    """After which the kept weights were tried: the highest accuracy, among equals the least
    loss."""
    validation_accuracy: float
    """Of the teacher with the kept weights in the block's place."""
    loss: float
    """Of the kept weights on the validation set, normalised as in `Try`."""
    losses: tuple[float, ...]
    """On the training images by epoch, normalised by the same variance."""
    tries: tuple[Try, ...]
    seconds: float
    """The block's own steps and their batches, as it would take alone."""
    teacher_seconds: float
    """The teacher's passes up to the block's end, as it would take alone."""
    shared_seconds: float
    """Its share of the clock that really passed, tries included."""
    digest: str
    """SHA-256 (16 digits) of the kept weights."""
    path: str
    """The kept weights, relative to the results folder."""


class Assembly(Record):
    """A teacher with its trained replacements in place: a blockwise student's first weights."""

    key: str
    """Names it: equal for the cells that start from it."""
    student: str
    """Label of the student."""
    seed: int
    blocks: tuple[BlockResult, ...]
    """All that were trained, in the network's order."""
    used: tuple[str, ...]
    """Names of the blocks that are replaced; the others stay the teacher's own."""
    failures: tuple[Failure, ...] = ()
    """Blocks whose training failed: they stay the teacher's own."""
    teacher_validation: float
    teacher_test: float
    """Top-1 of the teacher on the splits of the student."""
    validation: float
    """Top-1 of the assembled network; which blocks are used was chosen on this split."""
    test: float
    """Read once, never chosen by."""
    teacher_parameters: int
    parameters: int
    digest: str
    """SHA-256 (16 digits) of the assembled weights."""
    path: str
    """The assembled weights, relative to the results folder."""
    seconds: float
    """Of all blocks, as if each had trained alone, the teacher's passes left out."""
    teacher_seconds: float
    """The teacher's passes, as if each block had trained alone."""
    shared_seconds: float
    """What the trainings really took, added up over workers."""
    feed: Literal["relay", "prefix"] = "relay"
    schedule: Literal["longest_first", "contiguous", "queue"] = "longest_first"
    workers: int = 1
    elapsed_seconds: float | None = None
    """Of the clock, from the first block's start to the last one's end; None where blocks were
    found from an earlier run."""
    joules: float | None = None
    """Energy of the trainings, idle share included; None where nothing was trained now."""
    joules_origin: Origin | None = None
    """Whether the energy was measured or estimated."""


class Result(Record):
    """Everything about one cell, written once: `cells/<key>.json` of a results folder."""

    schema_version: int = SCHEMA
    cell: Cell
    status: Literal["done", "failed", "skipped"]
    """`done`: trained, and every export that was asked for stands; `failed`: see `failures`."""
    reason: str | None = None
    """Of a skip."""
    checkpoint: Checkpoint | None = None
    teacher: Checkpoint | None = None
    """The teacher's checkpoint as it was when this cell learnt from it."""
    ensemble: tuple[Checkpoint, ...] = ()
    """Those of an ensemble's members, in its order; then there is no single `teacher`."""
    start: Assembly | None = None
    """What this cell began from, where that was not fresh weights: its cost is not in the
    checkpoint's."""
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    provenance: Provenance


Result.model_rebuild()
