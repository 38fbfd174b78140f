"""Eight students in bf16 as a cohort train 3 times as fast as a plain fp32 loop one by one.

wrn_40_2 teaches eight wrn_16_2 by Hinton's distillation at eight temperatures, batches of 64
images of 32 x 32, one thread. Ours is a whole epoch of `train_cohort` (the second, so that nothing
is built in it; validation included); the plain loop is contiguous PyTorch in single precision, for
as many steps of each student. Half of it runs before the cohort and half after. The bar is for a
processor with bf16 matrix units, and the one at hand is named.

Beside it stands the accuracy: digits, one small pair in bf16 and in fp32 with three seeds each.
The means may differ by no more than the seeds of one precision do among themselves.

`KTBENCH_BF16=quick` takes a small pair, so that a test can run it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks._claim import Outcome
from benchmarks._networks import HERE, Pair, Plain, batches, cell_of, images_of, network
from ktbench.data import load
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import load_student
from ktbench.records import (
    Augmentation,
    Cell,
    Checkpoint,
    DataSpec,
    Failure,
    Item,
    NumericSpec,
    Teacher,
    TrainSpec,
)
from ktbench.students._contract import parts
from ktbench.teacher.live import Live
from ktbench.train import Places, TrainingContext, train_cohort
from ktbench.transfer_methods._contract import Batch

BAR = 3.0
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
FULL = Pair(images=512)
QUICK = Pair(teacher="resnet14", student="resnet8", image=8, batch=16, images=48)
BF16 = NumericSpec(precision="bf16")
UNITS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve2")


def units() -> str:
    """Return the bf16 instructions of this processor, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    flags = {
        word for line in lines if line.startswith(("flags", "Features")) for word in line.split()
    }
    return " ".join(unit for unit in UNITS if unit in flags) or "none"


def places(root: Path, cell: Cell) -> Places:
    """A cell's files."""
    names = (root / f"{cell.key}.{kind}" for kind in ("pt", "parquet", "work"))
    return Places(root, *names)


def trained(cell: Cell, source: Live | None, root: Path) -> Checkpoint:
    """A cell's checkpoint."""
    [made] = train_cohort(
        [cell],
        TrainingContext(
            dataset=load(cell.data, HERE),
            teacher=source,
            places=lambda cell: places(root, cell),
            base=HERE,
        ),
    )
    return _sound(made)


def _sound(outcome: Checkpoint | Failure) -> Checkpoint:
    if isinstance(outcome, Failure):
        raise RuntimeError(outcome.reason)
    return outcome


# ---------------------------------------------------------------- speed


def cohort_seconds(pair: Pair, root: Path) -> float:
    """The second epoch of all students as one cohort in bf16."""
    data, marks = images_of(pair), list[float]()
    train = TrainSpec(epochs=2, batch_size=pair.batch, schedule="constant")
    cells = [
        cell_of(
            pair,
            data,
            method=Item(name="kd", settings={"temperature": t}),
            numeric=BF16,
            train=train,
        )
        for t in TEMPERATURES
    ]
    teacher = network(pair.teacher, pair.classes, seed=1)
    made = train_cohort(
        cells,
        TrainingContext(
            dataset=data,
            teacher=Live(teacher, trained_on=data, dataset=data, numeric=BF16),
            places=lambda cell: places(root, cell),
            base=HERE,
            report=lambda _: marks.append(time.perf_counter()),
        ),
    )
    for one in made:
        _sound(one)
    return marks[1] - marks[0]


def plain_seconds(pair: Pair, made: Sequence[Batch], temperatures: Sequence[float]) -> float:
    """One student after the other in a plain loop; the first step of each is not counted."""
    prepare(NumericSpec())
    data = images_of(replace(pair, images=pair.batch))
    inputs = [parts(batch.inputs)[0].contiguous() for batch in made]
    total = 0.0
    for t in temperatures:
        cell = cell_of(pair, data, method=Item(name="kd"), numeric=NumericSpec())
        student = network(pair.student, pair.classes)
        loop = Plain(cell, student, network(pair.teacher, pair.classes, seed=1), temperature=t)
        loop.step(inputs[0], made[0].labels)
        start = time.perf_counter()
        for images, batch in zip(inputs, made, strict=True):
            loop.step(images, batch.labels)
        total += time.perf_counter() - start
    return total


# ---------------------------------------------------------------- accuracy


def accuracies(numeric: NumericSpec, root: Path, seeds: Sequence[int]) -> list[float]:
    """Validation accuracy per seed of a student on digits, its teacher trained alike."""
    spec = DataSpec(source="digits", train_size=600, augment=Augmentation(crop_padding=1))
    train = TrainSpec(epochs=12, batch_size=50)
    taught = Cell(
        data=spec,
        student=Item(name="resnet14"),
        method=Item(name="none"),
        seed=0,
        train=train,
        numeric=numeric,
    )
    teacher = trained(taught, None, root)
    data = load(spec, HERE)
    weights = load_student(taught, root / teacher.path, num_classes=10, in_channels=1, base=HERE)
    source = Live(weights, trained_on=data, dataset=data, numeric=numeric)
    student = taught.model_copy(
        update={
            "student": Item(name="resnet8"),
            "method": Item(name="kd"),
            "teacher": Teacher(name="t", cell=taught),
        }
    )
    made = [trained(student.model_copy(update={"seed": seed}), source, root) for seed in seeds]
    return [one.accuracy.validation_last for one in made]


def within_the_spread(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether the means differ by no more than seeds do."""
    spread = max(max(side) - min(side) for side in (ours, theirs))
    return abs(statistics.mean(ours) - statistics.mean(theirs)) <= spread


def run() -> Outcome:
    """Time both sides, then compare accuracies."""
    quick = os.environ.get("KTBENCH_BF16") == "quick"
    pair, seeds = (QUICK, range(2)) if quick else (FULL, range(3))
    steps = pair.images // pair.batch
    made = batches(images_of(pair), pair, steps)
    half = len(TEMPERATURES) // 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain = plain_seconds(pair, made, TEMPERATURES[:half])
        cohort = cohort_seconds(pair, root)
        plain += plain_seconds(pair, made, TEMPERATURES[half:])
        bf16, fp32 = accuracies(BF16, root, seeds), accuracies(NumericSpec(), root, seeds)
    print(f"bf16 units of this processor: {units()}")
    print(f"plain fp32 loop, {len(TEMPERATURES)} students of {steps} steps: {plain:.2f} s")
    print(f"bf16 cohort, the same steps: {cohort:.2f} s")
    for name, values in (("fp32", fp32), ("bf16", bf16)):
        shown = " ".join(f"{value:.4f}" for value in values)
        print(f"validation accuracy, {name}: {shown} (mean {statistics.mean(values):.4f})")
    ratio, alike = plain / cohort, within_the_spread(bf16, fp32)
    return Outcome(
        f"{ratio:.2f}x, accuracy {'' if alike else 'not '}within the seeds' spread",
        f">= {BAR:g}x on a processor with bf16 matrix units (here: {units()}), within the spread",
        ratio >= BAR and alike,
    )
