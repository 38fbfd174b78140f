"""Cost of a plan before it is run, estimated from a few timed steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from ktbench import catalogue
from ktbench.data import DataInfo, describe
from ktbench.networks.layout import safe
from ktbench.networks.outline import forward_flops, lacks_memory, outline, own_names
from ktbench.records import (
    OWN_ERRORS,
    BlockTrain,
    Cell,
    Ensemble,
    Item,
    KtbenchError,
    NumericSpec,
    Plan,
    Preprocessing,
    Record,
    Teacher,
    TrainSpec,
    Window,
)
from ktbench.students._contract import Inputs
from ktbench.supervision import mark
from ktbench.system.machine import bounded_memory, usable_cores

_LARGEST_BATCH = 32
_LARGEST_INPUT = 32 * 3 * 96 * 96
"""Most values in a timed batch, which bounds its size for large images."""
_TIMING_SHARE = 0.25
"""Share of the free memory that timing may take."""
_MOST_SECONDS = 10.0
"""Timing budget: later networks are assumed as fast per operation as those timed before."""


@dataclass(frozen=True)
class Speed:
    """Seconds and FLOPs per image of one network with one batch size."""

    forward: float
    step: float
    flops: int
    parameters: int = 0

    @property
    def work(self) -> int:
        """Quantities that seconds grow with: FLOPs, and parameters, which each step updates.

        A bag of word pieces has next to no FLOPs, and many parameters.
        """
        return self.flops + self.parameters


@dataclass
class StepTimer:
    """Times the training step of each network once."""

    base: Path
    untimed: dict[str, None] = field(default_factory=dict)
    """Labels of networks that failed."""
    _speeds: dict[tuple[str, str, str, int, int, str], Speed] = field(default_factory=dict)
    _spent: float = 0.0
    """Seconds of timing."""

    def speed(self, item: Item, cell: Cell, own: Preprocessing | None = None) -> Speed:
        """Time a network on a cell's data; zero for one that fails, which is then in `untimed`.

        `own` is what the network was trained on, where that is not the data's own.
        """
        info = describe(cell.data, self.base).for_network(cell.data, own)
        fitting = max(1, _LARGEST_INPUT // info.signature.values)
        batch = min(cell.train.batch_size, info.train_size, _LARGEST_BATCH, fitting)
        numeric = cell.numeric
        settings = (batch, numeric.threads, numeric.layout)
        question = (item.label, cell.data.canonical, info.signature.size, *settings)
        if catalogue.refused(item.label):
            self.untimed[item.label] = None
            return Speed(0.0, 0.0, 0)
        if question not in self._speeds:
            mark(item.label, "timing a training step", item.label)
            before, began = torch.get_num_threads(), time.perf_counter()
            torch.set_num_threads(min(numeric.threads, usable_cores()))
            try:
                if self._spent < _MOST_SECONDS:
                    self._speeds[question] = self._timed_in_bounds(item, info, batch, numeric)
                else:
                    self._speeds[question] = self._like_others(item, info)
            except OWN_ERRORS:  # a user's own network may do anything with these images
                if not own_names(item):
                    raise
                self.untimed[item.label] = None
                self._speeds[question] = Speed(0.0, 0.0, 0)
            finally:
                torch.set_num_threads(before)
                self._spent += time.perf_counter() - began
        return self._speeds[question]

    def _timed_in_bounds(
        self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec
    ) -> Speed:
        """Time a network; KtbenchError where a step takes more memory than can be spared."""
        try:
            with bounded_memory(_TIMING_SHARE):
                return self._timed(item, info, batch, numeric)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            told = info.signature
            raise KtbenchError(
                f"{item.label}: a training step with {batch} {told.noun}{'s' if batch > 1 else ''} "
                f"of {told.size} takes more memory than a quarter of what is free here: make "
                f"{told.sized_by} or the network smaller"
            ) from error

    def _like_others(self, item: Item, info: DataInfo) -> Speed:
        """Estimate a network by its operations and parameters, at the speed of those timed."""
        timed = list(self._speeds.values())
        flops = forward_flops(item, info.signature, str(self.base))
        this = Speed(0.0, 0.0, flops, outline(item, info.signature, str(self.base)).parameters)
        share = this.work / max(1, sum(speed.work for speed in timed))
        forward, step = sum(s.forward for s in timed), sum(s.step for s in timed)
        return replace(this, forward=share * forward, step=share * step)

    def _timed(self, item: Item, info: DataInfo, batch: int, numeric: NumericSpec) -> Speed:
        """Time the best of a few passes and steps, or a single one where that takes long."""
        with torch.random.fork_rng(devices=[]):
            sizes = info.signature.dimensions
            network = catalogue.build_student(
                item.name, item.settings, base=str(self.base), **sizes
            )
            inputs = info.signature.noise(batch)
        layout = safe(network, inputs, numeric)
        layout.place(network)
        inputs = layout.inputs(inputs)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, fused=True)
        with layout.running():
            step = _best(lambda: _step(network, optimiser, inputs))
            network.eval()
            forward = _best(lambda: _forward(network, inputs))
        flops = forward_flops(item, info.signature, str(self.base))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return Speed(forward / batch, step / batch, flops, parameters)


def _best(seconds: Callable[[], float]) -> float:
    """Return the shortest of up to five runs that together take up to half a second."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.5:
        times.append(seconds())
    return min(times)


def _step(network: nn.Module, optimiser: torch.optim.Optimizer, inputs: Inputs) -> float:
    start = time.perf_counter()
    torch.autograd.backward(network(inputs).float().square().mean())
    optimiser.step()
    optimiser.zero_grad()
    return time.perf_counter() - start


def _forward(network: nn.Module, inputs: Inputs) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        network(inputs)
    return time.perf_counter() - start


# ---------------------------------------------------------------- the estimate

CONVERT_S = {"onnx": 4.0, "tflite": 8.0}
"""Seconds to convert one architecture, once per export: typical of small networks on one core."""
WRITE_S = {"onnx": 0.2, "tflite": 0.6}
"""Seconds to write and check one cell's artifact."""
REPEAT_S = {"quick": 2.0, "full": 12.0}
"""Seconds of one process that measures one graph."""
LONGEST_S = 10 * 31_557_600
"""Ten years: longer plans are refused."""


class Estimate(Record):
    """Estimated seconds on this machine with one worker, and FLOPs of all training."""

    cells: int
    teacher_seconds: float
    """Training of the teachers and warm-ups, unless they are kept from an earlier run."""
    pretraining_seconds: float = 0.0
    """Training of what cells begin from, with its teachers' passes, unless it is kept."""
    block_seconds: float = 0.0
    """Training of the blocks of students made of a teacher's, with its passes, for the most
    epochs; blocks that students share are counted for each."""
    train_seconds: float
    """Training of the students, their teachers' forward passes included."""
    export_seconds: float
    measure_seconds: float
    flops: float
    """FLOPs of all trainings of networks; a backward pass counts as two forward ones."""
    untimed: tuple[str, ...] = ()
    """Networks that failed, or ended their process, while they were timed; they are not counted."""

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        before = self.teacher_seconds + self.pretraining_seconds + self.block_seconds
        return before + self.train_seconds + self.export_seconds + self.measure_seconds

    @property
    def text(self) -> str:
        """The estimate on one line, for people."""
        parts = {
            "teachers": self.teacher_seconds,
            **({"pretraining": self.pretraining_seconds} if self.pretraining_seconds else {}),
            **({"blocks": self.block_seconds} if self.block_seconds else {}),
            "training": self.train_seconds,
            "export": self.export_seconds,
            "measuring": self.measure_seconds,
        }
        split = ", ".join(f"{name} {_duration(value)}" for name, value in parts.items())
        return (
            f"estimate: {_duration(self.seconds)} on this machine ({split}), {self.flops:.2g} FLOPs"
            f" of training; without methods' own layers{self._left_out}"
        )

    @property
    def _left_out(self) -> str:
        return f", nor {', '.join(self.untimed)}, which cannot be timed" if self.untimed else ""


def estimate(plan: Plan) -> Estimate:
    """Estimate a plan: time each network's training step here for a moment, and multiply.

    The teacher's pass is shared by the students of a cohort, and counted once for them: for the
    steps in which the transfer of any of them counts, and as many teachers as are drawn per step.
    """
    timer = StepTimer(Path(plan.base))
    costs = _Costs(timer)
    cohorts: dict[str, list[Cell]] = {}
    train = flops = 0.0
    for cell in plan.cells:
        seconds, operations = costs.training(cell)
        train, flops = train + seconds, flops + operations
        if cell.teacher is not None:
            shared = (cell.data, cell.teacher, cell.train)
            name = f"{cell.seed}" + "".join(part.canonical for part in shared)
            cohorts.setdefault(name, []).append(cell)
    for cohort in cohorts.values():
        seconds, operations = costs.teaching(cohort[0], share=_taught_share(cohort))
        train, flops = train + seconds, flops + operations
    teachers, flops = _of_others(costs, (*plan.teachers, *plan.warmups), flops)
    pretraining, flops = _of_others(costs, plan.pretrainings, flops)
    blocks = 0.0
    # A block's training is a function of neither the method nor the finish.
    for cell in {(c.student.label, c.seed): c for c in plan.cells if c.start}.values():
        seconds, operations = costs.starting(cell)
        blocks, flops = blocks + seconds, flops + operations
    estimated = Estimate(
        cells=len(plan.cells),
        teacher_seconds=round(teachers, 1),
        pretraining_seconds=round(pretraining, 1),
        block_seconds=round(blocks, 1),
        train_seconds=round(train, 1),
        export_seconds=round(_exporting(plan), 1),
        measure_seconds=round(_measuring(plan), 1),
        flops=flops,
        untimed=tuple(timer.untimed),
    )
    if estimated.seconds > LONGEST_S:
        raise KtbenchError(
            f"{plan.name}: {estimated.text}: more than ten years: ask for fewer epochs, cells or "
            "pixels"
        )
    return estimated


def _of_others(costs: _Costs, trainings: Sequence[Teacher], flops: float) -> tuple[float, float]:
    """Return the seconds of trainings other than the cells', and FLOPs with theirs added."""
    total = 0.0
    for cell in (one.cell for one in trainings if one.checkpoint is None):
        share = 1.0 if cell.distill is None else cell.distill.end - cell.distill.start
        for seconds, operations in (costs.training(cell), costs.teaching(cell, share=share)):
            total, flops = total + seconds, flops + operations
    return total, flops


def _taught_share(cells: Sequence[Cell]) -> float:
    """Share of a cohort's steps in which the transfer of any of its cells counts."""
    windows = sorted((w.start, w.end) for w in (cell.distill or Window() for cell in cells))
    share = reached = 0.0
    for start, end in windows:
        share += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return share


@dataclass(frozen=True)
class _Costs:
    """Seconds and FLOPs of the parts of a plan."""

    timer: StepTimer

    def training(self, cell: Cell) -> tuple[float, float]:
        """Return seconds and FLOPs of a student's own part: its steps and its validation passes."""
        speed = self.timer.speed(cell.student, cell)
        info, images = describe(cell.data, self.timer.base), self._images(cell)
        checks = cell.train.epochs * info.validation_size + 2 * info.test_size
        return images * speed.step + checks * speed.forward, 3.0 * images * speed.flops

    def teaching(self, cell: Cell, *, share: float = 1.0) -> tuple[float, float]:
        """Return seconds and FLOPs of the teacher's forward passes in a share of a cell's steps.

        Members of an ensemble are drawn equally often.
        """
        if cell.teacher is None:
            return 0.0, 0.0
        sample = cell.teacher.sample if isinstance(cell.teacher, Ensemble) else 1
        passes = self._images(cell) * share * sample / len(cell.teachers)
        speeds = [self.timer.speed(t.cell.student, cell, t.preprocess) for t in cell.teachers]
        seconds = sum(passes * speed.forward for speed in speeds)
        return seconds, float(sum(passes * speed.flops for speed in speeds))

    def starting(self, cell: Cell) -> tuple[float, float]:
        """Return seconds and FLOPs of training the blocks that a cell begins from.

        Per image one pass of the teacher and one step of the student, which stands for all
        replacements: an upper bound, as blocks stop early.
        """
        if cell.start is None:
            return 0.0, 0.0
        student = self.timer.speed(cell.student, cell)
        teacher = self.timer.speed(cell.start.teacher.cell.student, cell)
        images = self._images(cell, cell.start.train)
        seconds = images * (teacher.forward + student.step)
        return seconds, float(images * (teacher.flops + 3 * student.flops))

    def _images(self, cell: Cell, train: TrainSpec | BlockTrain | None = None) -> int:
        """Count training images over all epochs, which have only full batches."""
        train = train or cell.train
        size, batch = describe(cell.data, self.timer.base).train_size, train.batch_size
        per_epoch = size // batch * batch if size >= batch else size
        return train.epochs * per_epoch


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
