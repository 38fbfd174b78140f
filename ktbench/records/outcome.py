"""What came of it: checkpoints, artifacts, measurements, results, and what went wrong."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from ktbench.records.base import SCHEMA, Record
from ktbench.records.bounds import (
    Amount,
    Count,
    Digest,
    Inside,
    Moment,
    Name,
    Positive,
    Share,
    Words,
)
from ktbench.records.cell import Cell
from ktbench.records.measurement import Origin
from ktbench.records.run_options import ExportSpec

Stage = Literal["plan", "data", "teacher", "train", "export", "measure"]


class Failure(Record):
    """Something that was tried and did not work, and why."""

    stage: Stage
    reason: Words
    what: Words = ""
    """The part concerned: an export's label, a device's name; empty for the whole cell."""
    step: Count | None = None
    """Training step at which it happened."""


class Cost(Record):
    """What a training took, split so that shared work is not counted as saved.

    `seconds` and `flops` are what the cell would take alone without the teacher's part; the
    teacher's forward is `teacher_*`; `shared_seconds` is the share of the clock that really
    passed (a cohort divides its teacher pass and its data work among its students).
    """

    seconds: Amount
    teacher_seconds: Amount
    shared_seconds: Amount
    flops: Count
    teacher_flops: Count


class Accuracies(Record):
    """Top-1 accuracies in [0, 1]; `best` is chosen on validation, test is read once, at the end."""

    validation_last: Share
    validation_best: Share
    best_epoch: Count
    test_last: Share
    test_best: Share

    @model_validator(mode="after")
    def _best_is_best(self) -> Self:
        if self.validation_best < self.validation_last:
            raise ValueError("the best validation accuracy is below the last one")
        return self


LayoutName = Literal["channels_last", "contiguous", "contiguous_without_onednn"]


class LayoutUsed(Record):
    """How a network's tensors lay in memory while it was trained."""

    name: LayoutName
    reason: Words | None = None
    """Why it was not the first choice, `channels_last`, or what the matrix asks for."""
    checked: bool = False
    """Whether a training step in it was compared with a double-precision reference, on this kind
    of machine."""


class ArithmeticVerdict(Record):
    """Whether a training step of a network is computed rightly on one kind of machine."""

    layout: LayoutName
    layout_reason: Words | None = None
    """Why the network's own layers ask for another than the first choice."""
    right: bool | None
    """None: the network could not be run; what it raised stands in `reason`."""
    reason: Words = ""
    worst: Amount = 0.0
    """The largest difference of an operation from its reference over what rounding explains."""
    operations: Count = 0
    """How many were compared."""
    images: Count
    """In the batch."""
    seconds: Amount


class Checkpoint(Record):
    """A trained student: where its weights are and how it got there."""

    cell_key: Digest
    path: Inside
    """Weights (`torch.load(..., weights_only=True)`), relative to the results folder."""
    digest: Digest
    """SHA-256 (16 digits) of the weights' names, shapes and bytes: the bit-for-bit invariant."""
    curves: Inside
    """Parquet of the per-epoch curves, relative to the results folder."""
    parameters: Count
    epochs: Count
    accuracy: Accuracies
    cost: Cost
    layout: LayoutUsed | None = None
    """None in older records: channels-last, not checked."""

    @model_validator(mode="after")
    def _best_epoch_was_trained(self) -> Self:
        if self.accuracy.best_epoch > self.epochs:
            raise ValueError(
                f"best_epoch {self.accuracy.best_epoch} is after the last epoch, {self.epochs}"
            )
        return self


class Tolerance(Record):
    """How far an artifact may be from torch before it is a failure."""

    agreement: Share
    """Least share of validation images with the same top-1 class."""
    difference: Amount | None
    """Largest allowed absolute difference of logits, relative to the logits' standard deviation;
    None where only agreement is judged."""


class Artifact(Record):
    """An exported student, and the proof that it is the same network."""

    cell_key: Digest
    export: ExportSpec
    graph_key: Digest
    """Equal for artifacts that differ only in their weights."""
    path: Inside
    """Relative to the results folder; its sidecar lies beside it with `.json` added."""
    digest: Digest
    bytes: Positive
    input_shape: tuple[Positive, ...]
    """Of one raw image as the artifact takes it: (C, H, W) for ONNX, (H, W, C) for TFLite."""
    agreement: Share
    """Share of the validation set on which artifact and torch name the same class."""
    max_difference: Amount
    """Largest absolute difference of logits over the validation set."""
    tolerance: Tolerance
    validation_accuracy: Share
    test_accuracy: Share
    runtime: Words
    """Runtime and version that the check ran in."""
    seconds: Amount
    """What exporting and checking took."""

    @model_validator(mode="after")
    def _agrees_as_asked(self) -> Self:
        if self.agreement < self.tolerance.agreement:
            raise ValueError("agrees less with torch than its tolerance allows")
        return self


class Provenance(Record):
    """Where and with what a record was made."""

    ktbench: Words
    commit: Words | None
    python: Words
    machine: Words
    processor: Words
    cores: Count
    system: Words
    versions: dict[Name, Words]
    instruction_set: Words | None = None
    """That the kernels of torch and of oneDNN use; None in older records, and where unknown."""
    data_digest: str | None = None
    created: Moment


class Try(Record):
    """A block in the teacher's place once, on the validation set."""

    epoch: Count
    accuracy: Share
    """Of the whole network, top-1."""
    loss: Amount
    """Mean squared error over the target's variance about its channels' means: 1 is what the best
    constant per channel reaches."""


class BlockResult(Record):
    """A block's replacement, trained alone to give the block's output from the block's input."""

    key: Name
    """Names the training: equal for every student that shares it."""
    block: Name
    """Path of the block's first module in the teacher."""
    replacement: Name
    """Name and settings of what stands for it."""
    parameters_before: Count
    parameters: Count
    epochs: Count
    """That were trained; fewer than asked for where `stopped` says so."""
    stopped: Literal["epochs", "patience", "diverged"]
    """Why it ended: all epochs, tries without a gain, or a loss that was not finite."""
    best_epoch: Count
    """After which the kept weights were tried: the highest accuracy, among equals the least
    loss."""
    validation_accuracy: Share
    """Of the teacher with the kept weights in the block's place."""
    loss: Amount
    """Of the kept weights on the validation set, normalised as in `Try`."""
    losses: tuple[Amount, ...]
    """On the training images by epoch, normalised by the same variance."""
    tries: tuple[Try, ...]
    seconds: Amount
    """The block's own steps and their batches, as it would take alone."""
    teacher_seconds: Amount
    """The teacher's passes up to the block's end, as it would take alone."""
    shared_seconds: Amount
    """Its share of the clock that really passed, tries included."""
    digest: Digest
    """SHA-256 (16 digits) of the kept weights."""
    path: Inside
    """The kept weights, relative to the results folder."""

    @model_validator(mode="after")
    def _best_epoch_was_trained(self) -> Self:
        if self.best_epoch > self.epochs:
            raise ValueError(f"best_epoch {self.best_epoch} is after the last epoch, {self.epochs}")
        return self


class Assembly(Record):
    """A teacher with its trained replacements in place: a blockwise student's first weights."""

    key: Name
    """Names it: equal for the cells that start from it."""
    student: Name
    """Label of the student."""
    seed: int
    blocks: tuple[BlockResult, ...]
    """All that were trained, in the network's order."""
    used: tuple[Name, ...]
    """Names of the blocks that are replaced; the others stay the teacher's own."""
    failures: tuple[Failure, ...] = ()
    """Blocks whose training failed: they stay the teacher's own."""
    teacher_validation: Share
    teacher_test: Share
    """Top-1 of the teacher on the splits of the student."""
    validation: Share
    """Top-1 of the assembled network; which blocks are used was chosen on this split."""
    test: Share
    """Read once, never chosen by."""
    teacher_parameters: Count
    parameters: Count
    digest: Digest
    """SHA-256 (16 digits) of the assembled weights."""
    path: Inside
    """The assembled weights, relative to the results folder."""
    seconds: Amount
    """Of all blocks, as if each had trained alone, the teacher's passes left out."""
    teacher_seconds: Amount
    """The teacher's passes, as if each block had trained alone."""
    shared_seconds: Amount
    """What the trainings really took, added up over workers."""
    feed: Literal["relay", "prefix"] = "relay"
    schedule: Literal["longest_first", "contiguous", "queue"] = "longest_first"
    workers: Positive = 1
    elapsed_seconds: Amount | None = None
    """Of the clock, from the first block's start to the last one's end; None where blocks were
    found from an earlier run."""
    joules: Amount | None = None
    """Energy of the trainings, idle share included; None where nothing was trained now."""
    joules_origin: Origin | None = None
    """Whether the energy was measured or estimated."""


class Result(Record):
    """Everything about one cell, written once: `cells/<key>.json` of a results folder."""

    schema_version: int = SCHEMA
    cell: Cell
    status: Literal["done", "failed", "skipped"]
    """`done`: trained, and every export that was asked for stands; `failed`: see `failures`."""
    reason: Words | None = None
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

    @model_validator(mode="after")
    def _status_says_what_there_is(self) -> Self:
        if self.status == "done" and (self.checkpoint is None or self.failures):
            raise ValueError("is done without a checkpoint, or with failures")
        if self.status == "failed" and not self.failures:
            raise ValueError("failed without a failure")
        if self.status == "skipped" and self.checkpoint is not None:
            raise ValueError("is skipped with a checkpoint")
        return self


Result.model_rebuild()
