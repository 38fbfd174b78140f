"""The int8 setting that validation chooses loses no more accuracy than least and greatest values.

A separable VGG and a MobileNetV2 are trained shortly on a part of CIFAR-10, then written in int8
with each way to find ranges (`calibration`) and each correction of the weights (`correct`), as ONNX
with unsigned activations and as TFLite. A row says what a file loses of the fp32 file's accuracy on
the test set; validation images, which no range is taken from, choose the setting that is judged.
`KTBENCH_INT8_SEEDS` trains more networks than one of each, and the means are over them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import functional

from benchmarks._claim import Outcome
from ktbench import catalogue
from ktbench.data import Dataset, load
from ktbench.export import Exporter
from ktbench.records import Artifact, Cell, DataSpec, ExportSpec, Format, Item, TrainSpec
from ktbench.students._contract import Student

DATA = DataSpec(
    source="parquet",
    path=str(Path(os.environ.get("KTBENCH_DATA", "data"), "cifar10")),
    train_size=2000,
    validation_size=500,
    test_size=1000,
)
STUDENTS = {
    "vgg_separable": Item(name="vgg_separable", settings={"width": 0.25}),
    "mobilenet_v2": Item(name="mobilenet_v2", settings={"width": 0.5}),
}
EPOCHS, BATCH, RATE = 6, 64, 0.1
FORMATS: tuple[Format, ...] = ("onnx", "tflite")
PLAIN = "minmax"
SETTINGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "percentile": {"calibration": "percentile"},
    "mse": {"calibration": "mse"},
    "equalise": {"correct": ("equalise",)},
    "bias": {"correct": ("bias",)},
    "equalise, bias": {"correct": ("equalise", "bias")},
    "mse, equalise, bias": {"calibration": "mse", "correct": ("equalise", "bias")},
}


@dataclass(frozen=True)
class Row:
    """What one int8 file loses of the fp32 file's accuracy."""

    student: str
    format: Format
    setting: str
    validation: float
    test: float
    fp32: float


def run() -> Outcome:
    """Print a row per student, format and setting; judge the chosen settings together."""
    seeds = int(os.environ.get("KTBENCH_INT8_SEEDS", "1"))
    rows = [row for seed in range(seeds) for row in _rows(seed)]
    chosen: list[float] = []
    plain: list[float] = []
    for student in STUDENTS:
        for form in FORMATS:
            ours = [row for row in rows if (row.student, row.format) == (student, form)]
            fp32 = mean(row.fp32 for row in ours)
            print(f"{student} as {form}: fp32 {fp32:.2%}; points lost in int8, n = {seeds}:")
            by_setting = {name: [r for r in ours if r.setting == name] for name in SETTINGS}
            for name, group in by_setting.items():
                validation, test = (
                    mean(getattr(r, s) for r in group) for s in ("validation", "test")
                )
                print(f"  {name:<20} {100 * test:5.2f} (validation {100 * validation:5.2f})")
            best = min(by_setting, key=lambda name: mean(r.validation for r in by_setting[name]))
            chosen.append(mean(row.test for row in by_setting[best]))
            plain.append(mean(row.test for row in by_setting[PLAIN]))
    return Outcome(
        f"{100 * mean(chosen):.2f} points lost on the test set by the settings that validation"
        f" chooses, {100 * mean(plain):.2f} by {PLAIN}",
        f"<= what {PLAIN} loses",
        mean(chosen) <= mean(plain),
    )


def _rows(seed: int) -> Iterator[Row]:
    data = load(DATA, Path.cwd())
    with TemporaryDirectory(prefix="ktbench-") as place, _exporter(data, Path(place)) as exporter:
        for name, item in STUDENTS.items():
            student = _trained(item, data, seed)
            cell = Cell(
                data=DATA,
                student=item,
                method=Item(name="none"),
                seed=seed,
                train=TrainSpec(epochs=EPOCHS),
            )
            for form in FORMATS:
                plain = _exported(exporter, student, cell, form, precision="fp32")
                for setting, fields in SETTINGS.items():
                    unsigned = {"activations": "unsigned"} if form == "onnx" else {}
                    done = _exported(
                        exporter, student, cell, form, precision="int8", **unsigned, **fields
                    )
                    yield Row(
                        name,
                        form,
                        setting,
                        plain.validation_accuracy - done.validation_accuracy,
                        plain.test_accuracy - done.test_accuracy,
                        plain.test_accuracy,
                    )


def _exporter(data: Dataset, place: Path) -> Exporter:
    return Exporter(data, place, place)


def _exported(
    exporter: Exporter, student: Student, cell: Cell, form: Format, **fields: Any
) -> Artifact:
    done = exporter.export(student, cell, ExportSpec(format=form, batch="dynamic", **fields))
    if not isinstance(done, Artifact):
        raise RuntimeError(f"{cell.student.label} as {done.what}: {done.reason}")
    return done


def _trained(item: Item, data: Dataset, seed: int) -> Student:
    """Train a student by cross-entropy alone; images are neither cropped nor flipped."""
    torch.manual_seed(seed)
    student = catalogue.build_student(item.name, item.settings, num_classes=10, in_channels=3)
    inputs, labels = data.inputs(data.raw("train")), data.labels("train")
    assert isinstance(inputs, torch.Tensor)
    steps = EPOCHS * (len(labels) // BATCH)
    optimiser = torch.optim.SGD(student.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    student.train()
    for step in range(steps):
        if step % (len(labels) // BATCH) == 0:
            order = torch.randperm(len(labels))
        start = BATCH * (step % (len(labels) // BATCH))
        part = order[start : start + BATCH]
        optimiser.zero_grad()
        functional.cross_entropy(student(inputs[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return student.eval()
