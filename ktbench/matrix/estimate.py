"""What a plan will take, before it is run: an estimate from a few timed steps on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.networks.layout import safe
from ktbench.networks.outline import forward_flops, lacks_memory, own_names
from ktbench.records import (
    OWN_ERRORS,
    BlockTrain,
    Cell,
    DataSpec,
    Ensemble,
    Item,
    KtbenchError,
    NumericSpec,
    Plan,
    Record,
    TrainSpec,
    Window,
)
from ktbench.supervision import mark
from ktbench.system.machine import bounded_memory, usable_cores

CONVERT_S = {"onnx": 4.0, "tflite": 8.0}
"""Converting one architecture, done once per export: typical of small networks on one core."""
WRITE_S = {"onnx": 0.2, "tflite": 0.6}
"""Writing and checking one cell's artifact."""
REPEAT_S = {"quick": 2.0, "full": 12.0}
"""One process that measures one graph, on a machine like this."""
_LARGEST_BATCH = 32
_LARGEST_INPUT = 32 * 3 * 96 * 96
"""Numbers of a batch that is timed, of images that are larger than most."""
_TIMING_SHARE = 0.25
"""Of the free memory that timing may take."""
TIMING_S = 10.0
"""After so long, further networks are taken to be as fast per operation as those timed before."""
LONGEST_S = 10 * 31_557_600
"""Ten years: nobody waits so long, so a plan of more is refused."""


class Estimate(Record):
    """Seconds on this machine with one worker, and the FLOPs of all training; all estimated."""

    cells: int
    teacher_seconds: float
    """Training the teachers, unless they are kept from an earlier run."""
    block_seconds: float = 0.0
    """Training the blocks of students that are made of a teacher's, for the most epochs, each
    block's and its teacher's passes; what students share is counted once for each."""
    train_seconds: float
    """Training the students, their teachers' forward passes included."""
    export_seconds: float
    measure_seconds: float
    flops: float
    """Of the students' and teachers' trainings, a backward pass counted as two forward ones."""
    untimed: tuple[str, ...] = ()
    """Networks that failed, or ended their process, while they were timed: they are not counted."""

    @property
    def seconds(self) -> float:
        """All stages."""
        stages = (self.teacher_seconds, self.block_seconds, self.train_seconds)
        return sum(stages) + self.export_seconds + self.measure_seconds

    @property
    def text(self) -> str:
        """One line for people."""
        parts = {
            "teachers": self.teacher_seconds,
            **({"blocks": self.block_seconds} if self.block_seconds else {}),
            "training": self.train_seconds,
            "export": self.export_seconds,
            "measuring": self.measure_seconds,
        }
        split = ", ".join(f"{name} {_duration(value)}" for name, value in parts.items())
        return (
            f"estimate: {_duration(self.seconds)} on this machine ({split}), {self.flops:.2g} FLOPs"
            f" of training; methods' own layers not counted{self._left_out}"
        )

    @property
    def _left_out(self) -> str:
        return f", nor {', '.join(self.untimed)}, which cannot be timed" if self.untimed else ""


def estimate(plan: Plan) -> Estimate:
    """Time each network's training step here for a moment, and multiply.

    The teacher's pass is shared by the students of a cohort, and counted once for them: for the
    steps in which the transfer of any of them counts, and as many teachers as are drawn per step.
    """
    clock = _Clock(Path(plan.base))
    taught: dict[str, list[Cell]] = {}
    train = flops = 0.0
    for cell in plan.cells:
        seconds, operations = clock.training(cell)
        train, flops = train + seconds, flops + operations
        if cell.teacher is not None:
            shared = (cell.data, cell.teacher, cell.train)
            name = f"{cell.seed}" + "".join(part.canonical for part in shared)
            taught.setdefault(name, []).append(cell)
    for cohort in taught.values():
        seconds, operations = clock.teaching(cohort[0], share=_taught_share(cohort))
        train, flops = train + seconds, flops + operations
    teachers = 0.0
    for teacher in plan.teachers:
        if teacher.checkpoint is None:
            for seconds, operations in (clock.training(teacher.cell), clock.teaching(teacher.cell)):
                teachers, flops = teachers + seconds, flops + operations
    blocks = 0.0
    # A block's training is a function of neither the method nor the finish.
    for cell in {(c.student.label, c.seed): c for c in plan.cells if c.start}.values():
        seconds, operations = clock.starting(cell)
        blocks, flops = blocks + seconds, flops + operations
    found = Estimate(
        cells=len(plan.cells),
        teacher_seconds=round(teachers, 1),
        block_seconds=round(blocks, 1),
        train_seconds=round(train, 1),
        export_seconds=round(_exporting(plan), 1),
        measure_seconds=round(_measuring(plan), 1),
        flops=flops,
        untimed=tuple(clock.untimed),
    )
    if found.seconds > LONGEST_S:
        raise KtbenchError(
            f"{plan.name}: {found.text}: more than ten years: ask for fewer epochs, cells or pixels"
        )
    return found


def _taught_share(cells: Sequence[Cell]) -> float:
    """Of the steps of a cohort, those in which the transfer of one of its cells counts."""
    windows = sorted((w.start, w.end) for w in (cell.distill or Window() for cell in cells))
    share = reached = 0.0
    for start, end in windows:
        share += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return share


@dataclass(frozen=True)
class _Speed:
    """Of one network with one batch size: seconds and FLOPs of one image."""

    forward: float
    step: float
    flops: int


@dataclass
class _Clock:
    """Times networks, each once."""

    base: Path
    _speeds: dict[tuple[str, str, int, int, str], _Speed] = field(default_factory=dict)
    _infos: dict[str, DataInfo] = field(default_factory=dict)
    untimed: dict[str, None] = field(default_factory=dict)
    """Labels of networks that failed."""
    _spent: float = 0.0
    """Seconds of timing."""

    def training(self, cell: Cell) -> tuple[float, float]:
        """Seconds and FLOPs of a student's own part: its steps and its validation passes."""
        speed = self._speed(cell.student, cell)
        info, images = self._info(cell.data), self._images(cell)
        checks = cell.train.epochs * info.validation_size + 2 * info.test_size
        return images * speed.step + checks * speed.forward, 3.0 * images * speed.flops

    def teaching(self, cell: Cell, *, share: float = 1.0) -> tuple[float, float]:
        """Seconds and FLOPs of the forward passes of a cell's teacher in a share of its steps.

        Of an ensemble each member is drawn equally often.
        """
        if cell.teacher is None:
            return 0.0, 0.0
        sample = cell.teacher.sample if isinstance(cell.teacher, Ensemble) else 1
        passes = self._images(cell) * share * sample / len(cell.teachers)
        speeds = [self._speed(teacher.cell.student, cell) for teacher in cell.teachers]
        seconds = sum(passes * speed.forward for speed in speeds)
        return seconds, float(sum(passes * speed.flops for speed in speeds))

    def starting(self, cell: Cell) -> tuple[float, float]:
        """Seconds and FLOPs of training the blocks that a cell begins from.

        One pass of the teacher and one step of all replacements, which are the student but for
        what it keeps, per image: an upper bound, as blocks stop early.
        """
        if cell.start is None:
            return 0.0, 0.0
        own = self._speed(cell.student, cell)
        taught = self._speed(cell.start.teacher.cell.student, cell)
        images = self._images(cell, cell.start.train)
        return images * (taught.forward + own.step), float(images * (taught.flops + 3 * own.flops))

    def _images(self, cell: Cell, train: TrainSpec | BlockTrain | None = None) -> int:
        """Training images that pass, over all epochs; an epoch has only full batches."""
        train = train or cell.train
        size, batch = self._info(cell.data).train_size, train.batch_size
        per_epoch = size // batch * batch if size >= batch else size
        return train.epochs * per_epoch

    def _info(self, data: DataSpec) -> DataInfo:
        if data.canonical not in self._infos:
            self._infos[data.canonical] = describe(data, self.base)
        return self._infos[data.canonical]

    def _speed(self, item: Item, cell: Cell) -> _Speed:
        info = self._info(cell.data)
        fitting = max(1, _LARGEST_INPUT // math.prod(info.shape))
        batch = min(cell.train.batch_size, info.train_size, _LARGEST_BATCH, fitting)
        numeric = cell.numeric
        question = (item.label, cell.data.canonical, batch, numeric.threads, numeric.layout)
        if catalogue.refused(item.label):
            self.untimed[item.label] = None
            return _Speed(0.0, 0.0, 0)
        if question not in self._speeds:
            mark(item.label, "timing a training step", item.label)
            before, began = torch.get_num_threads(), time.perf_counter()
            torch.set_num_threads(min(numeric.threads, usable_cores()))
            try:
                if self._spent < TIMING_S:
                    self._speeds[question] = self._bounded(item, info, batch, numeric)
                else:
                    self._speeds[question] = self._like_others(item, info)
            except OWN_ERRORS:  # a user's own may do anything with these images
                if not own_names(item):
                    raise
                self.untimed[item.label] = None
                self._speeds[question] = _Speed(0.0, 0.0, 0)
            finally:
                torch.set_num_threads(before)
                self._spent += time.perf_counter() - began
        return self._speeds[question]

    def _bounded(self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec) -> _Speed:
        """As `_timed`; KtbenchError where a step takes more memory than can be spared."""
        try:
            with bounded_memory(_TIMING_SHARE):
                return self._timed(item, info, batch, numeric)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            size = "×".join(map(str, info.shape))
            raise KtbenchError(
                f"{item.label}: a training step with {batch} image{'s' if batch > 1 else ''} of "
                f"{size} takes more memory than a quarter of what is free here: make "
                "data.image_size or the network smaller"
            ) from error

    def _like_others(self, item: Item, info: DataInfo) -> _Speed:
        """A network that is not timed itself: seconds by its operations."""
        known = list(self._speeds.values())
        flops = forward_flops(item, info.num_classes, info.shape, str(self.base))
        share = flops / max(1, sum(speed.flops for speed in known))
        forward, step = sum(s.forward for s in known), sum(s.step for s in known)
        return _Speed(share * forward, share * step, flops)

    def _timed(self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec) -> _Speed:
        """The best of a few, a single one where that takes long."""
        with torch.random.fork_rng(devices=[]):
            network = catalogue.build_student(
                item.name,
                item.settings,
                num_classes=info.num_classes,
                in_channels=info.shape[0],
                base=str(self.base),
            )
            inputs = torch.rand(batch, *info.shape)
        layout = safe(network, inputs, numeric)
        layout.place(network)
        inputs = layout.inputs(inputs)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, fused=True)
        with layout.running():
            step = _best(lambda: _step(network, optimiser, inputs))
            network.eval()
            forward = _best(lambda: _forward(network, inputs))
        flops = forward_flops(item, info.num_classes, info.shape, str(self.base))
        return _Speed(forward / batch, step / batch, flops)


def _best(seconds: Callable[[], float]) -> float:
    """The shortest of up to five runs that together take up to half a second."""
    found: list[float] = []
    while len(found) < 5 and sum(found) < 0.5:
        found.append(seconds())
    return min(found)


def _step(network: nn.Module, optimiser: torch.optim.Optimizer, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    torch.autograd.backward(functional.cross_entropy(network(inputs), labels))
    optimiser.step()
    optimiser.zero_grad()
    return time.perf_counter() - start


def _forward(network: nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        network(inputs)
    return time.perf_counter() - start


def _exporting(plan: Plan) -> float:
    students = {cell.student.label for cell in plan.cells}
    return sum(
        len(students) * CONVERT_S[spec.format] + len(plan.cells) * WRITE_S[spec.format]
        for spec in plan.exports
    )


def _measuring(plan: Plan) -> float:
    students = {cell.student.label for cell in plan.cells}
    return sum(
        (len(plan.cells) if device.noise_check else len(students))
        * len(plan.exports)
        * len(device.threads)
        * device.repeats
        * REPEAT_S[device.mode]
        for device in plan.devices
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < LONGEST_S:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 31_557_600:.2g} years"
