"""The account of one training: losses, costs and figures of quality, epoch by epoch."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from ktbench.records import Cost, Metric
from ktbench.system.files import write_atomically
from ktbench.train.loss_log import LossLog

_COLUMNS = {
    "epoch": pa.int32(),
    "step": pa.int64(),
    "phase": pa.string(),
    "validation_accuracy": pa.float64(),
    "seconds": pa.float64(),
    "teacher_seconds": pa.float64(),
    "flops": pa.int64(),
    "teacher_flops": pa.int64(),
    "lr": pa.float64(),
}

LOSS, BESIDE = "loss_", "beside_"
"""Beginnings of the names of columns that a curve has besides."""


@dataclass(frozen=True)
class Judged:
    """How a network does on a split: the task's metric, and second figures by name."""

    metric: Metric
    figure: float
    beside: dict[str, float]

    def better_than(self, figure: float) -> bool:
        """Return True where the figure is better than another, in the metric's direction."""
        return self.metric.quality(self.figure) > self.metric.quality(figure)

    @property
    def objection(self) -> str | None:
        """Say which figure cannot be, and why; None if all can."""
        if reason := self.metric.objection(self.figure):
            return f"{self.metric.name} {reason}"
        odd = [name for name, figure in self.beside.items() if not math.isfinite(figure)]
        return f"{odd[0]} is not finite" if odd else None


@dataclass
class TrainingHistory:
    """Losses, costs and quality of one student's training, and its best weights."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The curve: one row per epoch. Costs are cumulative; the teacher's are apart from the
    student's own; `loss_<term>` is the epoch's mean. `validation_accuracy` is the task's
    metric, whichever it is, and `beside_<name>` a second figure of the validation set."""
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    shared_seconds: float = 0.0
    """This student's share of what the cohort really took."""
    flops: int = 0
    teacher_flops: int = 0
    best_validation: float | None = None
    """The metric's figure after the best epoch."""
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """Weights after the best epoch."""
    losses: LossLog = field(default_factory=LossLog)
    """Terms of the present epoch."""
    looks: list[dict[str, Any]] = field(default_factory=list)
    """The balance of the loss where it was looked at, each as a `records.Look`."""

    @property
    def epoch(self) -> int:
        """Number of epochs done, which is the index of the next one."""
        return len(self.rows)

    @property
    def cost(self) -> Cost:
        """The costs so far, as a record."""
        return Cost(
            seconds=self.seconds,
            teacher_seconds=self.teacher_seconds,
            shared_seconds=self.shared_seconds,
            flops=self.flops,
            teacher_flops=self.teacher_flops,
        )

    def add_epoch(
        self, network: nn.Module, losses: dict[str, float], *, step: int, phase: str,
        judged: Judged, rate: float,
    ) -> None:  # fmt: skip
        """Add the row of an epoch, and keep the network's weights if it is the best so far."""
        if self.best_validation is None or judged.better_than(self.best_validation):
            self.best_validation, self.best_epoch = judged.figure, self.epoch + 1
            self.best_state = {k: v.clone() for k, v in network.state_dict().items()}
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": step,
            "phase": phase,
            "validation_accuracy": judged.figure,
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "flops": self.flops,
            "teacher_flops": self.teacher_flops,
            "lr": rate,
        }
        row |= {f"{LOSS}{name}": mean for name, mean in losses.items()}
        row |= {f"{BESIDE}{name}": figure for name, figure in judged.beside.items()}
        self.rows.append(row)

    def write_curve(self, path: Path) -> None:
        """Write the rows as Parquet; a term that an epoch did not have is null."""
        more = sorted({name for row in self.rows for name in row} - set(_COLUMNS))
        schema = pa.schema([*_COLUMNS.items(), *((name, pa.float64()) for name in more)])
        table = pa.Table.from_pylist(
            [{name: row.get(name) for name in schema.names} for row in self.rows], schema=schema
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomically(path, buffer.getvalue())

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the account of a saved training (`Trainee.state`)."""
        self.rows, self.looks = state["rows"], state.get("looks", [])
        self.seconds, self.teacher_seconds, self.shared_seconds = state["costs"]
        self.flops, self.teacher_flops = state["flops"]
        self.best_validation, self.best_epoch = state["best"]
        self.best_state = state["best_state"]
