"""A plausible results folder of any size, written through the real API, for tests and timings."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ktbench.records import (
    Accuracies,
    Artifact,
    Cell,
    Checkpoint,
    Cost,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    Failure,
    Item,
    Measurement,
    Origin,
    Plan,
    Provenance,
    Result,
    Skip,
    Statistic,
    Teacher,
    Tolerance,
    TrainSpec,
    Validity,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.system.files import write_atomically

PROVENANCE = Provenance(
    ktbench="0.1.0",
    commit="0" * 40,
    python="3.11.2",
    machine="x86_64",
    processor="Synthetic processor",
    cores=2,
    system="Linux 6.1",
    versions={"torch": "2.13.0", "numpy": "2.2.0"},
    created="2026-01-02T03:04:05+00:00",
)
DATA = DataSpec(source="digits", train_size=300)
TEACHER_COST = Cost(
    seconds=12.0, teacher_seconds=0.0, shared_seconds=12.0, flops=9 * 10**11, teacher_flops=0
)
EXPORTS = (
    ExportSpec(format="onnx"),
    ExportSpec(format="onnx", precision="int8"),
    ExportSpec(format="tflite"),
    ExportSpec(format="tflite", precision="int8"),
)
LOCAL = DeviceSpec(profile="local", name="local")


@dataclass(frozen=True)
class Shape:
    """The axes of a synthetic matrix, and what becomes of its cells."""

    students: tuple[str, ...] = ("resnet8", "vgg_shallow", "vgg_thin")
    gains: dict[str, float] = field(
        default_factory=lambda: {"kd": 0.03, "attention": 0.005, "fitnet": -0.02}
    )
    """Method → mean gain in accuracy over `none`."""
    teachers: tuple[str, ...] = ("big",)
    seeds: int = 3
    epochs: int = 12
    exports: tuple[ExportSpec, ...] = EXPORTS
    devices: tuple[DeviceSpec, ...] = (LOCAL,)
    origin: Origin = "measured"
    noise: float = 0.006
    data: DataSpec = DATA
    views: tuple[int | None, ...] = (None,)
    """Stored augmentations per image that epochs take turns with; None draws new ones."""
    reuse_cost: float = 0.02
    """Accuracy that one stored view costs; K cost a K-th of it."""
    skipped: Callable[[Cell], str | None] = lambda cell: None
    """Reason why a cell cannot exist, or None."""
    failed: Callable[[Cell], Failure | None] = lambda cell: None
    """Failure of a cell, or None."""
    missing: Callable[[Cell], bool] = lambda cell: False
    """True for a cell that has not run yet."""


def plan_of(shape: Shape) -> Plan:
    """The plan of a synthetic matrix: `none` once, every other method per teacher."""
    cells: list[Cell] = []
    for seed, views in product(range(shape.seeds), shape.views):
        train = TrainSpec(epochs=shape.epochs, views=views)
        for student in shape.students:
            item = Item(name=student)
            rest = {"data": shape.data, "student": item, "seed": seed, "train": train}
            cells.append(Cell.model_validate({**rest, "method": Item(name="none")}))
            for name in shape.teachers:
                teacher = _teacher(name)
                for method in shape.gains:
                    asked = {**rest, "method": Item(name=method), "teacher": teacher}
                    cells.append(Cell.model_validate(asked))
    skips = {c.key: Skip(cell=c, reason=r) for c in cells if (r := shape.skipped(c)) is not None}
    return Plan(
        name="synthetic",
        base="/",
        cells=tuple(c for c in cells if c.key not in skips),
        skips=tuple(skips.values()),
        exports=shape.exports,
        devices=shape.devices,
    )


def _teacher(name: str) -> Teacher:
    cell = Cell(
        data=DATA.model_copy(update={"train_size": None}),
        student=Item(name="vgg13", settings={"width": 1.0 if name == "big" else 0.5}),
        method=Item(name="none"),
        seed=0,
        train=TrainSpec(epochs=30),
    )
    return Teacher(name=name, cell=cell)


def write_folder(path: Path, shape: Shape | None = None) -> ResultsFolder:
    """A results folder with every cell of `shape`; the same shape gives the same bytes."""
    shape = shape or Shape()
    plan = plan_of(shape)
    folder = ResultsFolder(path)
    with folder.open(plan, "name: synthetic\n", PROVENANCE, data_digest="d" * 16):
        for cell in plan.cells:
            if not shape.missing(cell):
                folder.write_result(result_of(folder, cell, shape))
        _write_measurements(folder, shape, plan)
    return folder


def result_of(folder: ResultsFolder, cell: Cell, shape: Shape) -> Result:
    """A cell's synthetic result; its curves are written."""
    failure = shape.failed(cell)
    if failure is not None and failure.stage == "train":
        return Result(cell=cell, status="failed", failures=(failure,), provenance=PROVENANCE)
    checkpoint = _checkpoint(folder, cell, shape)
    return Result(
        cell=cell,
        status="failed" if failure else "done",
        checkpoint=checkpoint,
        teacher=_teacher_checkpoint(cell),
        artifacts=tuple(
            _artifact(cell, export, checkpoint)
            for export in shape.exports
            if failure is None or failure.what != export.label
        ),
        failures=(failure,) if failure else (),
        provenance=PROVENANCE,
    )


def _checkpoint(folder: ResultsFolder, cell: Cell, shape: Shape) -> Checkpoint:
    rng = np.random.default_rng([int(cell.key, 16) % 2**32, cell.seed])
    size = 5 + shape.students.index(cell.student.name)
    level = 0.95 - 0.5 / size + np.random.default_rng(cell.seed).normal(0, 0.01)
    final = level + shape.gains.get(cell.method.name, 0.0) + rng.normal(0, shape.noise)
    final -= shape.reuse_cost / cell.train.views if cell.train.views else 0.0
    epochs = np.arange(1, shape.epochs + 1)
    speed = 2.0 if cell.method.name in ("kd", "attention") else 1.0
    curve = final * (1 - 0.8 * np.exp(-speed * epochs * 4 / shape.epochs))
    curve = np.clip(curve + rng.normal(0, 0.004, len(epochs)), 0, 1)
    taught = cell.teacher is not None
    costs = {"seconds": 0.11 * size * epochs, "teacher_seconds": 0.3 * taught * epochs}
    flops = {
        "flops": 10**9 * size * epochs,
        "teacher_flops": 25 * 10**8 * taught * epochs,
    }
    _write_curves(folder.curves(cell.key), cell, epochs, curve, costs | flops)
    best = int(curve.argmax())
    return Checkpoint(
        cell_key=cell.key,
        path=str(folder.weights(cell.key).relative_to(folder.path)),
        digest=digest_of([cell.key, "weights"]),
        curves=str(folder.curves(cell.key).relative_to(folder.path)),
        parameters=9_000 * size,
        epochs=shape.epochs,
        accuracy=Accuracies(
            validation_last=float(curve[-1]),
            validation_best=float(curve[best]),
            best_epoch=best + 1,
            test_last=float(np.clip(final, 0, 1)),
            test_best=float(np.clip(final + 0.002, 0, 1)),
        ),
        cost=Cost(
            seconds=float(costs["seconds"][-1]),
            teacher_seconds=float(costs["teacher_seconds"][-1]),
            shared_seconds=float(costs["seconds"][-1] + costs["teacher_seconds"][-1] / 4),
            flops=int(flops["flops"][-1]),
            teacher_flops=int(flops["teacher_flops"][-1]),
        ),
    )


def _write_curves(
    path: Path,
    cell: Cell,
    epochs: np.ndarray,
    accuracy: np.ndarray,
    costs: dict[str, np.ndarray],
) -> None:
    columns = {
        "epoch": epochs.astype(np.int32),
        "step": epochs.astype(np.int64) * 10,
        "phase": ["train"] * len(epochs),
        "validation_accuracy": accuracy,
        **costs,
        "lr": np.full(len(epochs), 0.05),
        "loss_ce": 2.0 / epochs,
    }
    if cell.teacher is not None:
        columns[f"loss_{cell.method.name}"] = 1.0 / epochs
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(path, buffer.getvalue())


def _teacher_checkpoint(cell: Cell) -> Checkpoint | None:
    if cell.teacher is None:
        return None
    level = 0.97 if cell.teacher.name == "big" else 0.95
    return Checkpoint(
        cell_key=cell.teachers[0].cell.key,
        path="weights.pt",
        digest=digest_of([cell.teacher.name, "weights"]),
        curves="curves.parquet",
        parameters=900_000,
        epochs=30,
        accuracy=Accuracies(
            validation_last=level,
            validation_best=level,
            best_epoch=29,
            test_last=level,
            test_best=level,
        ),
        cost=TEACHER_COST,
    )


def _artifact(cell: Cell, export: ExportSpec, checkpoint: Checkpoint) -> Artifact:
    int8 = export.precision == "int8"
    onnx = export.format == "onnx"
    accuracy = checkpoint.accuracy
    return Artifact(
        cell_key=cell.key,
        export=export,
        graph_key=_graph_key(cell, export),
        path=f"artifacts/{cell.key}/{export.label}.{export.format}",
        digest=digest_of([cell.key, export.label]),
        bytes=checkpoint.parameters * (1 if int8 else 4) + (3_000 if onnx else 4_500),
        input_shape=(1, 8, 8),
        agreement=0.981 if int8 else 1.0,
        max_difference=0.31 if int8 else 1.2e-6,
        tolerance=Tolerance(agreement=0.9 if int8 else 0.995, difference=None if int8 else 1e-3),
        validation_accuracy=max(0.0, accuracy.validation_last - 0.004 * int8),
        test_accuracy=max(0.0, accuracy.test_last - 0.004 * int8),
        runtime="onnxruntime 1.22.0" if onnx else "ai-edge-litert 2.0.0",
        seconds=0.2,
    )


def _graph_key(cell: Cell, export: ExportSpec) -> str:
    return digest_of([cell.student.label, export.label])


def _write_measurements(folder: ResultsFolder, shape: Shape, plan: Plan) -> None:
    """Each distinct graph once per device and thread count, as the runner does it."""
    graphs: dict[str, tuple[Cell, ExportSpec]] = {}
    for cell in plan.cells:
        result = folder.result(cell.key)
        for artifact in result.artifacts if result else ():
            graphs.setdefault(artifact.graph_key, (cell, artifact.export))
    for device in shape.devices:
        for threads in device.threads:
            for cell, export in graphs.values():
                size = 5 + shape.students.index(cell.student.name)
                found = measurement_of(
                    cell, export, device, threads=threads, size=size, origin=shape.origin
                )
                folder.write_measurement(found)


def measurement_of(
    cell: Cell,
    export: ExportSpec,
    device: DeviceSpec,
    *,
    threads: int = 1,
    size: int = 5,
    origin: Origin = "measured",
    validity: Validity | None = None,
) -> Measurement:
    """A synthetic measurement of a cell's artifact."""
    graph = _graph_key(cell, export)
    p50 = 0.02 * size * (0.6 if export.precision == "int8" else 1.0) / threads
    p50 *= 0.83 if export.format == "tflite" else 1.0
    name = digest_of([device.name, graph, threads, cell.key])
    onnx = export.format == "onnx"
    return Measurement(
        device=device,
        origin=origin,
        graph_key=graph,
        cell_key=cell.key,
        export=export,
        artifact_digest=digest_of([cell.key, export.label]),
        threads=threads,
        batch=1,
        runtime="onnxruntime" if onnx else "ai-edge-litert",
        runtime_version="1.22.0" if onnx else "2.0.0",
        provider="CPUExecutionProvider" if onnx else "XNNPACK",
        board={"machine": "x86_64", "processor": "Synthetic processor", "memory_bytes": 8 * 2**30},
        state_before={"governor": "performance"},
        state_after={"governor": "performance"},
        samples=f"measurements/{name}.samples.parquet",
        runs=64,
        repeats=3,
        load_ms=_statistic(3.1),
        first_ms=_statistic(0.9),
        p50_ms=_statistic(p50),
        p90_ms=_statistic(p50 * 1.1),
        p99_ms=None,
        mean_ms=p50 * 1.02,
        stdev_ms=p50 * 0.04,
        peak_memory_bytes=40 * 2**20,
        validity=validity or Validity(warnings=("median below 0.1 ms",) if p50 < 0.1 else ()),
        agent_digest="a" * 16,
        started="2026-01-02T03:04:05+00:00",
    )


def slower(measurement: Measurement, p50: float) -> Measurement:
    """The measurement with another median, in milliseconds, and the other figures to match."""
    times = {"p50_ms": _statistic(p50), "p90_ms": _statistic(p50 * 1.1), "mean_ms": p50 * 1.02}
    return measurement.model_copy(update=times)


def _statistic(value: float) -> Statistic:
    return Statistic(value=value, low=value * 0.98, high=value * 1.03)
