"""The frozen record types that the stages hand to each other.

A leaf: nothing of ktbench is imported here. Each record is a value; a stage takes the previous
record and returns the next. What lands in a results folder is one of these as JSON.

Schema history (`SCHEMA`):
    1  first version
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCHEMA = 1

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "fp16", "int8"]
Stage = Literal["plan", "data", "teacher", "train", "export", "measure"]
Origin = Literal["measured", "emulated", "estimated"]


class KtbenchError(Exception):
    """What went wrong, where, and what to do, in one line for the user."""


class StorageError(KtbenchError):
    """A file could not be written: the run stops, since going on would lose what comes next."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


def digest_of(value: Any) -> str:
    """A 16-digit hexadecimal name for a JSON value, equal on every machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class Record(BaseModel):
    """Base of every record: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of the record."""
        return canonical_json(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was worked out from the old values (a cell's key)."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied


class Composed(Record):
    """A record of records that others share: each part is written as text once."""

    @cached_property
    def canonical(self) -> str:
        """`canonical_json` of the record."""
        values = ((name, getattr(self, name)) for name in sorted(type(self).model_fields))
        parts = (f'"{name}":{_canonical(value)}' for name, value in values)
        return "{" + ",".join(parts) + "}"


def _canonical(value: Record | JsonValue) -> str:
    return value.canonical if isinstance(value, Record) else canonical_json(value)


# ---------------------------------------------------------------- what is asked: the axes


class Item(Record):
    """A catalogue item (student or method) with the settings that differ from its defaults."""

    name: str
    """The item's name in the catalogue, or `path/to/file.py:Class` or `package.module:Class`."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the item, as its own `Config` (method) or `build` (student) names them."""
    code: str | None = None
    """SHA-256 (16 digits) of the file of a user's own network or method: other code is another
    cell. None for the catalogue's own."""

    @cached_property
    def canonical(self) -> str:
        """See `Record`; the catalogue's items are their name and settings alone."""
        parts = {"name": self.name, "settings": self.settings}
        return canonical_json(parts if self.code is None else {**parts, "code": self.code})

    @property
    def label(self) -> str:
        """`name(setting=value, ...)`: unique within a matrix, short enough for a table."""
        if not self.settings:
            return self.name
        inner = ", ".join(f"{k}={_short(v)}" for k, v in sorted(self.settings.items()))
        return f"{self.name}({inner})"


def _short(value: JsonValue) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return canonical_json(value).strip('"')


BASELINE = Item(name="none")
"""Training without transfer: what every method is compared with."""


class Augmentation(Record):
    """Random changes to a training image, drawn per (seed, epoch, sample)."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Pixels of zero padding before a random crop back to the image's size."""
    flip: bool = False
    """Mirror left and right with probability one half."""


class DataSpec(Record):
    """A data set, its splits and its augmentation."""

    source: Literal["digits", "hub", "parquet", "folder"]
    """`digits` (ships with scikit-learn), a Hugging Face `hub` name, local `parquet` files in hub
    layout, or an image `folder` with one sub-folder per class."""
    path: str | None = None
    """Hub name, or folder (relative to the matrix file; `${NAME}` takes the environment's)."""
    image_column: str | None = None
    """Column of the images; found by type when not given."""
    label_column: str | None = None
    """Column of the labels; found by type when not given."""
    image_size: Annotated[int, Field(ge=4)] | None = None
    """Resize every image to this many pixels a side."""
    train_size: Annotated[int, Field(ge=1)] | None = None
    """Training images used, drawn class by class; all that remain when not given."""
    validation_size: Annotated[int, Field(ge=1)] | None = None
    """Images held out to choose by; a tenth of the training images when not given."""
    test_size: Annotated[int, Field(ge=1)] | None = None
    """Test images: a fifth of the data where the source has no test split, else all of it."""
    split_seed: int = 0
    """Seed of the splits; the same for every cell of a matrix."""
    augment: Augmentation = Augmentation()


class TrainSpec(Record):
    """Training budget and optimiser, the same for every method of a matrix."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD; the Adam family keeps its own betas."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["constant", "cosine", "step", "exponential"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.625, 0.75, 0.875)
    """Of `step`: fractions of the training after which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of `step` (per milestone) and `exponential` (per epoch)."""
    keep: Literal["last", "best"] = "last"
    """Which weights go on to export: the last, or the best on the validation set."""


class NumericSpec(Record):
    """What decides the bits of a result beside the maths; part of every cell's key."""

    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of every process that computes for a cell: they change the order of sums."""
    precision: Literal["fp32"] = "fp32"
    device: Literal["cpu"] = "cpu"
    """Where cells are trained; a GPU is not offered yet."""


class Cell(Composed):
    """One training: a student, a method, a teacher (or none), data, a budget and a seed.

    A cell's weights are a function of `key` alone (on one kind of machine and one version of
    torch); what it is exported to and measured on is not part of it.
    """

    data: DataSpec
    student: Item
    method: Item
    teacher: Teacher | None = None
    """None for methods that read nothing of a teacher, so that they are trained once."""
    seed: int
    train: TrainSpec
    numeric: NumericSpec = NumericSpec()

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name this cell everywhere."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """`student / method / teacher / seed` for people."""
        teacher = f" ← {self.teacher.name}" if self.teacher else ""
        return f"{self.student.label} / {self.method.label}{teacher} / seed {self.seed}"


class Teacher(Composed):
    """A trained cell that others learn from: by rule its method is `none`, or a chain of them."""

    name: str
    """Short name within the matrix; part of the key, as it names a row of the report."""
    cell: Cell
    checkpoint: str | None = None
    """A user's own weights for `cell.student`; then nothing is trained."""
    checkpoint_digest: str | None = None
    """SHA-256 (16 digits) of that file, so that other weights of the same name are another key."""


class ExportSpec(Record):
    """One way to write a student down for a runtime."""

    format: Format
    precision: Precision = "fp32"
    batch: Literal["1", "dynamic"] = "1"
    opset: Annotated[int, Field(ge=13, le=23)] = 18
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

    profile: str
    """A file of `devices/`: `local`, `ssh`, ..."""
    name: str
    """What the report calls it; unique within the matrix."""
    host: str | None = None
    """A host name or an alias of the user's SSH configuration; None for `local`."""
    python: str = "python3"
    """The interpreter on the device that has numpy and a runtime; None of it is built into a
    shell string."""
    threads: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    """Runtime threads; each value is measured on its own."""
    mode: Literal["quick", "full"] = "quick"
    """`quick`: 64 timed runs a repeat; `full`: at least 662 and 10 s (MLPerf LoadGen)."""
    repeats: Annotated[int, Field(ge=1)] = 3
    """Fresh processes per graph, interleaved over the graphs."""
    noise_check: bool = False
    """Measure every cell's own artifact instead of one per distinct graph."""


class Plan(Record):
    """The matrix, worked out: every cell once, every impossible pair with its reason."""

    name: str
    base: str
    """Absolute folder that relative paths of the matrix start from; in no key."""
    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...] = ()
    exports: tuple[ExportSpec, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The distinct teachers, each after those that it was itself taught by."""
        found: dict[str, Teacher] = {}

        def visit(teacher: Teacher) -> None:
            if teacher.cell.teacher is not None:
                visit(teacher.cell.teacher)
            found.setdefault(teacher.canonical, teacher)

        for teacher in {id(c.teacher): c.teacher for c in self.cells if c.teacher}.values():
            visit(teacher)
        return tuple(found.values())


# ---------------------------------------------------------------- what came of it


class Skip(Record):
    """A cell that cannot exist, and why; it is shown, not dropped."""

    cell: Cell
    reason: str


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
    agreement: float | None = None
    """Share of the checked inputs on which the device and the reference name the same class; None
    where there was no reference."""
    checked_inputs: int = 0
    """Inputs whose outputs on the device were compared with the reference."""
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
    data_digest: str | None = None
    created: str


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
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    provenance: Provenance


for _model in (Cell, Teacher, Plan, Skip, Result):
    _model.model_rebuild()
