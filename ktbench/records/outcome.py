"""Outcomes of a cell: checkpoint, artifacts, costs, failures, and the result that holds them."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ktbench.records.base import SCHEMA, Record, without_unset
from ktbench.records.bounds import (
    Amount,
    Count,
    Digest,
    Figure,
    Inside,
    Moment,
    Name,
    Positive,
    Share,
    Words,
)
from ktbench.records.cell import Cell
from ktbench.records.measurement import Origin
from ktbench.records.metric import Metric
from ktbench.records.run_options import ExportSpec, Quantisation
from ktbench.records.weights_file import Begun

Stage = Literal["plan", "data", "teacher", "train", "export", "measure"]


class Failure(Record):
    """A failed attempt, with its reason."""

    stage: Stage
    reason: Words
    what: Words = ""
    """Part concerned: an export's label, a device's name; empty for the whole cell."""
    step: Count | None = None
    """Training step at which it happened."""


class Cost(Record):
    """Cost of a training, split so that shared work is not counted as saved.

    `seconds` and `flops` are what the cell would take alone without the teacher's part; the
    teacher's forward passes are `teacher_*`; `shared_seconds` is the cell's share of the time that
    really passed (a cohort divides its teacher pass and its data work among its students).
    """

    seconds: Amount
    teacher_seconds: Amount
    shared_seconds: Amount
    flops: Count
    teacher_flops: Count


class Accuracies(Record):
    """Figures of the task's metric, for images top-1 accuracies.

    `best` is chosen on validation; test is read once, at the end. What figures there can be, and
    which way is better, the folder's lock says (`objection`).
    """

    validation_last: Figure
    validation_best: Figure
    best_epoch: Count
    test_last: Figure
    test_best: Figure
    beside_last: dict[Name, Figure] = Field(default_factory=dict)
    """Second figures of the test set by name, where the task has any."""
    beside_best: dict[Name, Figure] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave second figures unsaid where there are none, as older records do."""
        return {name: value for name, value in plain(self).items() if value != {}}

    def objection(self, metric: Metric) -> str | None:
        """Say which of the figures cannot be those of a metric, and why; None if all can."""
        for name in ("validation_last", "validation_best", "test_last", "test_best"):
            if reason := metric.objection(getattr(self, name)):
                return f"{name} {reason}"
        if metric.quality(self.validation_best) < metric.quality(self.validation_last):
            return f"the best validation {metric.word} is worse than the last one"
        return None


LayoutName = Literal["channels_last", "contiguous", "contiguous_without_onednn"]


class LayoutUsed(Record):
    """Memory layout of a network while it was trained."""

    name: LayoutName
    reason: Words | None = None
    """Reason for another layout than `channels_last` or than the matrix asks for."""
    checked: bool = False
    """True where a training step in it was compared with a double-precision reference on this kind
    of machine."""


class ArithmeticVerdict(Record):
    """Verdict on the arithmetic of a network's training step on one kind of machine."""

    layout: LayoutName
    layout_reason: Words | None = None
    """Reason for which the network's own layers ask for another layout than the first choice."""
    right: bool | None
    """Verdict; None where the network could not be run, with its error in `reason`."""
    reason: Words = ""
    worst: Amount = 0.0
    """Largest difference of an operation from its reference, relative to what rounding explains."""
    operations: Count = 0
    """Number of operations compared."""
    images: Count
    """Images in the batch."""
    seconds: Amount


class Pairing(Record):
    """Stages that a method compared, each pair by its positions from 0: [teacher, student]."""

    teacher: tuple[Name, ...]
    """Names of the teacher's stages."""
    student: tuple[Name, ...]
    """Names of the student's stages."""
    pairs: tuple[tuple[Count, Count], ...]
    rule: Name = ""
    """The rule that chose them, as the method's setting names it; empty where it has none."""
    similarity: tuple[tuple[float, ...], ...] | None = None
    """[teacher stage][student stage]: the similarities that the pairs were chosen by; None where
    they were not."""

    @model_validator(mode="after")
    def _pairs_are_of_these_stages(self) -> Self:
        for teacher, student in self.pairs:
            if teacher >= len(self.teacher) or student >= len(self.student):
                raise ValueError(f"pairs stages {teacher} and {student}, which are not there")
        return self

    @property
    def objection(self) -> str | None:
        """Note for readers on the order of the pairs; None where depth agrees with depth."""
        ordered = sorted(self.pairs, key=lambda pair: (pair[1], pair[0]))
        taught = [teacher for teacher, _ in ordered]
        if len(taught) > 1 and len(self.teacher) > 1 and len(set(taught)) == 1:
            return f"every pair names one teacher stage, {self.teacher[taught[0]]}"
        for (t, s), (later_t, later_s) in pairwise(ordered):
            if later_t < t and later_s > s:
                return (
                    f"out of order: student stage {self.student[later_s]} is paired with an "
                    f"earlier teacher stage ({self.teacher[later_t]}) than {self.student[s]} "
                    f"({self.teacher[t]})"
                )
        return None


class Look(Record):
    """The terms of a loss in one step: their values, and how hard each pulls at the student."""

    epoch: Count
    phase: Name
    losses: dict[Name, float]
    """Values of the terms that move the student, weights included."""
    gradients: dict[Name, Amount]
    """L2 norms of their gradients with respect to the student's parameters that each moves."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self | None:
        """Return the record of a look; None where a gradient was not finite."""
        finite = all(map(isfinite, (*values["losses"].values(), *values["gradients"].values())))
        return cls.model_validate(values) if finite else None


class Brought(Record):
    """Findings of a look at weights that a user brought along."""

    tested: Positive
    """Test samples that their figures are of."""
    renamed: Share | None = None
    """Share of them that would be right if each class were renamed one to one, at best; None where
    their figure gave no cause to look, and for other tasks than of classes."""


class Checkpoint(Record):
    """A trained student: its weights, accuracy and cost."""

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
    """Layout in training; None in older records: channels-last, not checked."""
    pairing: Pairing | None = None
    """Pairs of stages that the method compared; None where there are none, and in older records."""
    looks: tuple[Look, ...] = ()
    """Balance of the loss at a few steps; none of a loss of one term, under the compiler, and in
    older records."""
    begun: Begun | None = None
    """Part of the weights that another training or a file gave; None where all were fresh."""
    brought: Brought | None = None
    """Findings on weights that were brought along; None of those that were trained here."""
    data_digest: Digest | None = None
    """Digest of the data set that it learnt from; None in older records."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a training that begins from none has not, and older records have not."""
        return without_unset(plain(self), "begun", "brought", "data_digest")

    @model_validator(mode="after")
    def _best_epoch_was_trained(self) -> Self:
        if self.accuracy.best_epoch > self.epochs:
            raise ValueError(
                f"best_epoch {self.accuracy.best_epoch} is after the last epoch, {self.epochs}"
            )
        return self


class Tolerance(Record):
    """Largest deviation of an artifact from torch before it is a failure."""

    agreement: Share
    """Least share of validation images with the same top-1 class."""
    difference: Amount | None
    """Largest allowed absolute difference of logits, relative to their standard deviation; None
    where only agreement is judged."""


class Layers(Record):
    """Number of an int8 file's convolutions and products with a matrix of weights."""

    quantised: Count
    """Layers whose input and weights the file holds as integers."""
    all: Count


class LayerLoss(Record):
    """Loss of a file in which one layer alone is quantised, on the validation set."""

    layer: Words
    validation_accuracy: Figure
    """The task's metric."""
    agreement: Share
    """Share of samples on which the file and torch name the same class."""


class Artifact(Record):
    """An exported student, and the proof that it is the same network."""

    cell_key: Digest
    export: ExportSpec
    graph_key: Digest
    """Equal for artifacts that differ only in their weights."""
    path: Inside
    """File, relative to the results folder; its sidecar has the same name with `.json` added."""
    digest: Digest
    bytes: Positive
    quantisation: Quantisation | None = None
    """Origin of an int8 file's ranges of activations: training samples (`static`) or each input as
    it comes (`dynamic`); None for other precisions and in older records."""
    input_shape: tuple[Positive, ...]
    """Shape of one raw image as the artifact takes it: (C, H, W) for ONNX, (H, W, C) for TFLite."""
    agreement: Share
    """Share of the validation set on which artifact and torch name the same class."""
    max_difference: Amount
    """Largest absolute difference of logits over the validation set."""
    tolerance: Tolerance
    validation_accuracy: Figure
    test_accuracy: Figure
    runtime: Words
    """Runtime of the check, with its version."""
    seconds: Amount
    """Time of export and check."""
    layers: Layers | None = None
    """Quantised layers of an int8 file; None for other precisions and in older records."""
    remarks: tuple[Words, ...] = ()
    """Reasons for which an int8 file is not what one expects of it: its size, float layers."""
    sensitivity: tuple[LayerLoss, ...] = ()
    """Loss of each layer, where the export asks for it, in the order of the network."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is only known of int8 files."""
        fields = without_unset(plain(self), "quantisation", "layers")
        return {n: v for n, v in fields.items() if v or n not in ("remarks", "sensitivity")}

    @model_validator(mode="after")
    def _agrees_as_asked(self) -> Self:
        if self.agreement < self.tolerance.agreement:
            raise ValueError("agrees less with torch than its tolerance allows")
        return self


class Provenance(Record):
    """Origin of a record: software versions, machine and time."""

    ktbench: Words
    commit: Words | None
    python: Words
    machine: Words
    processor: Words
    cores: Count
    system: Words
    versions: dict[Name, Words]
    instruction_set: Words | None = None
    """Instruction set of torch's and oneDNN's kernels; None where unknown and in older records."""
    data_digest: str | None = None
    created: Moment


class Try(Record):
    """One evaluation of a block in the teacher, on the validation set."""

    epoch: Count
    accuracy: Share
    """Top-1 of the whole network."""
    loss: Amount
    """Mean squared error over the target's variance about its channels' means: the best constant
    per channel reaches 1."""


class BlockResult(Record):
    """A block's replacement, trained alone to give the block's output from the block's input."""

    key: Name
    """Key of the training, equal for every student that shares it."""
    block: Name
    """Path of the block's first module in the teacher."""
    replacement: Name
    """Name and settings of its replacement."""
    parameters_before: Count
    parameters: Count
    epochs: Count
    """Epochs trained; fewer than asked for where `stopped` says so."""
    stopped: Literal["epochs", "patience", "diverged"]
    """Reason of the end: all epochs, evaluations without a gain, or a loss that was not finite."""
    best_epoch: Count
    """Epoch of the kept weights: the highest accuracy, among equals the least loss."""
    validation_accuracy: Share
    """Accuracy of the teacher with the kept weights in place of the block."""
    loss: Amount
    """Loss of the kept weights on the validation set, normalised as in `Try`."""
    losses: tuple[Amount, ...]
    """Losses on the training images by epoch, normalised by the same variance."""
    tries: tuple[Try, ...]
    seconds: Amount
    """Time of the block's own steps and batches, as if it trained alone."""
    teacher_seconds: Amount
    """Time of the teacher's passes up to the block's end, as if it trained alone."""
    shared_seconds: Amount
    """Its share of the time that really passed, evaluations included."""
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
    """Key of the assembly, equal for the cells that start from it."""
    student: Name
    """Label of the student."""
    seed: int
    blocks: tuple[BlockResult, ...]
    """All trained blocks, in the network's order."""
    used: tuple[Name, ...]
    """Names of the replaced blocks; the others stay the teacher's own."""
    failures: tuple[Failure, ...] = ()
    """Blocks whose training failed: they stay the teacher's own."""
    teacher_validation: Share
    teacher_test: Share
    """Top-1 of the teacher on the student's splits."""
    validation: Share
    """Top-1 of the assembled network; the blocks were chosen on this split."""
    test: Share
    """Read once, never chosen by."""
    teacher_parameters: Count
    parameters: Count
    digest: Digest
    """SHA-256 (16 digits) of the assembled weights."""
    path: Inside
    """The assembled weights, relative to the results folder."""
    seconds: Amount
    """Time of all blocks, as if each had trained alone, without the teacher's passes."""
    teacher_seconds: Amount
    """Time of the teacher's passes, as if each block had trained alone."""
    shared_seconds: Amount
    """Time that the trainings really took, added up over workers."""
    feed: Literal["relay", "prefix"] = "relay"
    schedule: Literal["longest_first", "contiguous", "queue"] = "longest_first"
    workers: Positive = 1
    elapsed_seconds: Amount | None = None
    """Wall-clock time from the first block's start to the last one's end; None where blocks came
    from an earlier run."""
    joules: Amount | None = None
    """Energy of the trainings, idle share included; None where nothing was trained now."""
    joules_origin: Origin | None = None
    """Origin of the energy: measured or estimated."""
    flops: Count | None = None
    """Operations of all blocks' own steps; a backward pass counts as two forward ones. None in
    records of ktbench before it counted them."""
    teacher_flops: Count | None = None
    """Operations of the teacher's passes, one for all blocks."""


class Pretraining(Record):
    """The training whose weights a cell began from, with what it was taught by."""

    checkpoint: Checkpoint
    taught_by: tuple[Checkpoint, ...] = ()
    """Checkpoints of its own teacher, or of its ensemble's members."""
    before: Pretraining | None = None
    """The training that it began from itself."""


class Result(Record):
    """The whole outcome of one cell, written once: `cells/<key>.json` of a results folder."""

    schema_version: int = SCHEMA
    cell: Cell
    status: Literal["done", "failed", "skipped"]
    """`done`: trained and exported as asked; `failed`: see `failures`."""
    reason: Words | None = None
    """Reason of a skip."""
    checkpoint: Checkpoint | None = None
    teacher: Checkpoint | None = None
    """Checkpoint of the teacher when this cell learnt from it."""
    ensemble: tuple[Checkpoint, ...] = ()
    """Checkpoints of an ensemble's members, in its order; then there is no single `teacher`."""
    start: Assembly | None = None
    """Assembly that this cell began from, if any; its cost is not part of the checkpoint's."""
    warmup: Checkpoint | None = None
    """Checkpoint of the student that the pairs of stages were chosen with; see `Cell.warmup`."""
    pretrained: Pretraining | None = None
    """Training that this cell began from, if any; its cost is not part of the checkpoint's."""
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    provenance: Provenance

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a training that begins from none has not."""
        return without_unset(plain(self), "pretrained")

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
