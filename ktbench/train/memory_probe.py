"""How much memory a training takes, measured, and how many cells share a batch within a limit.

A cohort holds what every student keeps between steps, and one student's step at a time:

    what is shared + the sum of what stays + SPREAD times the dearest step or teacher pass

All are measured on throw-away lanes, which take one real step in each of their phases. Where
a crude bound is far within the limit, nothing is measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ktbench.data import Stream
from ktbench.isolation import Guard, own_code
from ktbench.records import Cell, KtbenchError
from ktbench.students._contract import Features
from ktbench.supervision import mark
from ktbench.teacher.source import TeacherSource
from ktbench.train.device_placement import make_batch
from ktbench.train.memory_budget import Budget, give_back, resident
from ktbench.train.trainee import Lane
from ktbench.transfer_methods._contract import Batch

Taken = TypeVar("Taken")

ROOMY = 4
"""A crude bound this many times below the limit is believed."""
SPREAD = 2
"""A process grows by more than a step's tensors take, as freed blocks lie scattered in its heap:
by 1.3 to 1.9 times as much with glibc."""
_VALIDATED = 256
"""Images of one validation pass; see `Lane.accuracy`."""
_COPIES = 4
"""Bound of what a lane keeps, by its modules: themselves, two moments of an optimiser, the best
weights. Also of what a method adds to a step: ReviewKD, the dearest, triples it."""


@dataclass(frozen=True)
class Need:
    """Bytes of something in training: what stays between steps, and what a step takes on top."""

    stays: int
    step: int


def together(shared: Need, lanes: Iterable[Need]) -> int:
    """Most bytes that a cohort of these lanes holds at once: only one of them steps at a time."""
    found = list(lanes)
    dearest = max(n.step for n in [shared, *found])
    return shared.stays + sum(n.stays for n in found) + SPREAD * dearest


def split(shared: Need, lanes: Sequence[Need], room: int) -> list[list[int]]:
    """Positions of the lanes in cohorts that fit into `room` bytes, in order.

    A lane that does not fit by itself is a cohort of its own.
    """
    cohorts: list[list[int]] = []
    for number, lane in enumerate(lanes):
        joined = [lanes[i] for i in cohorts[-1]] if cohorts else []
        if joined and together(shared, [*joined, lane]) <= room:
            cohorts[-1].append(number)
        else:
            cohorts.append([number])
    return cohorts


def notes(
    cells: Sequence[Cell],
    shared: Need,
    lanes: Sequence[Need],
    cohorts: Sequence[Sequence[int]],
    budget: Budget,
) -> list[str]:
    """What the user should know of a split: that there is one, and who does not fit at all."""
    said = []
    limit = f"(limit {_gigabytes(budget.limit)})"
    if len(cohorts) > 1:
        most = max(map(len, cohorts))
        said.append(f"memory: cohorts of {most} instead of {len(cells)} {limit}")
    alone = [together(shared, [lane]) for lane in lanes]
    large = [number for number, size in enumerate(alone) if size > budget.room]
    if large:
        first = max(large, key=lambda number: alone[number])
        held = budget.limit - budget.room
        more = f" (and {len(large) - 1} more)" if len(large) > 1 else ""
        said.append(
            f"memory: {cells[first].label} takes {_gigabytes(held + alone[first])} with the "
            f"program itself, more than the limit: trained alone{more}"
        )
    return said


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def tidier(shared: Need, lanes: Sequence[Need], budget: Budget, device: str) -> Callable[[], None]:
    """What is to be called before each pass and step, so that the process stays under its limit.

    The heap grows with every lane, as freed blocks of a step lie between what stays. They are
    given back when the next step might not fit, and only then, as it must fetch them again.
    """
    dearest = max(need.step for need in [shared, *lanes])

    def tidy() -> None:
        if device == "cpu" and resident() + SPREAD * dearest > budget.limit:
            give_back()

    return tidy


# ---------------------------------------------------------------- measured


def measure(
    cells: Sequence[Cell],
    build: Callable[[Cell], Lane],
    stream: Stream,
    teacher: TeacherSource | None,
    guard: Guard | None = None,
) -> tuple[Need, list[Need]]:
    """What the cells' cohort takes once, and what each of its lanes takes.

    Cells of the same student and method are measured once. One that fails here will fail in the
    same way when it is trained: it takes nothing.
    """
    device, guard = cells[0].numeric.device, guard or Guard()
    _, data = _taken(partial(_batch, stream, cells[0], 0), device)
    once = [Need(2 * data.stays, data.step)]  # The last batch goes when the next one is there.
    found: dict[str, Need] = {}
    with torch.random.fork_rng(devices=[]):
        for cell, kind in zip(cells, map(_kind, cells), strict=True):
            if kind in found:
                continue
            found[kind] = Need(0, 0)
            # What is raised here ends its own cell when that is trained, with its reason.
            with suppress(KtbenchError), guard.containing(all_of_it=True):
                taught, found[kind] = _dry(cell, build, stream, teacher)
                once.append(Need(2 * data.stays + taught.stays, taught.step))
    return _most(once), [found[kind] for kind in map(_kind, cells)]


def _kind(cell: Cell) -> str:
    """Names what decides how much a cell of a cohort takes."""
    # Weights to start from may decide on a student's structure; a cohort's cells share their seed.
    start = cell.start.canonical if cell.start else ""
    window = cell.distill.canonical if cell.distill else ""
    return cell.student.canonical + cell.method.canonical + start + window


def _dry(
    cell: Cell, build: Callable[[Cell], Lane], stream: Stream, teacher: TeacherSource | None
) -> tuple[Need, Need]:
    """What the teacher and the lane take: every phase's first and last step, and a validation.

    Compiled networks are measured as they are before compilation, which only takes less.
    """
    device = cell.numeric.device
    mark(cell.key, "measuring the memory of a training step", cell.label)
    plain = cell.numeric.model_copy(update={"compile": False})
    lane, built = _taken(lambda: build(cell.model_copy(update={"numeric": plain})), device)
    taken, taught = [built], [Need(0, 0)]
    for step in _moments(lane, stream.steps_per_epoch * cell.train.epochs):
        batch = _batch(stream, cell, step)
        needs = lane.needs(batch.progress)
        features = None
        if teacher is not None and needs:
            features, ran = _taken(partial(teacher.outputs, batch, needs), device)
            taught.append(ran)
        taken.append(_taken(partial(lane.step, batch, features), device)[1])
    taken.append(_taken(partial(_validate, lane), device)[1])
    kept = sum(n.stays for n in taken) + _bytes(lane.student)  # and the best weights
    # A checkpoint is written from memory: its bytes, and some of them twice while they grow.
    return _most(taught), Need(kept, max(2 * kept, *(n.step for n in taken)))


def _most(needs: Sequence[Need]) -> Need:
    return Need(max(n.stays for n in needs), max(n.step for n in needs))


def _moments(lane: Lane, steps: int) -> list[int]:
    """The first and the last step of each stretch of a training of so many steps."""
    ends = [0, *(math.ceil(edge * steps) for edge in lane.edges), steps]
    return [step for a, b in pairwise(ends) if a < b for step in sorted({a, b - 1})]


def _batch(stream: Stream, cell: Cell, step: int) -> Batch:
    """A step's very own batch: a teacher source may keep what is said of it."""
    each = stream.steps_per_epoch
    epoch, number = divmod(step, each)
    return make_batch(
        stream,
        stream.order(epoch)[number],
        epoch=epoch,
        step=step,
        steps=each * cell.train.epochs,
        device=torch.device(cell.numeric.device),
    )


def _validate(lane: Lane) -> None:
    """One chunk of what `Lane.accuracy` does."""
    images = lane.dataset.normalise(lane.dataset.images("validation")[:_VALIDATED])
    lane.student.eval()
    with torch.inference_mode():
        lane.logits(images.to(lane.device))
    lane.student.train()


def _taken(take: Callable[[], Taken], device: str) -> tuple[Taken, Need]:
    """What something gives, the bytes of tensors that it leaves behind and its peak of them."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        given = take()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated() - before
        return given, Need(max(0, held), torch.cuda.max_memory_allocated() - before)
    give_back()  # A process near its limit must not grow by being measured.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each profile prints two lines
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        given = take()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return given, Need(max(0, held), most)


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))


# ---------------------------------------------------------------- bounded


class Bound:
    """A crude upper bound of a growing cohort, from its lanes as they are built.

    A step is bounded by what the student's own pass saves for its backward pass. What a method
    adds beyond three times that, it adds alone as well, and is not multiplied by the cohort.
    """

    def __init__(self, stream: Stream) -> None:
        size = min(stream.batch_size, stream.dataset.size("train"))
        self._batch_size = size
        self._saved: dict[str, int] = {}
        images = stream.dataset.images("train")
        # The images once more, padded; a batch as indices, bytes and twice as fp32, and the next.
        self._data = 2 * images.numel() + 16 * images[:size].numel()
        self._lanes: list[Need] = []

    def add(self, lane: Lane) -> int:
        """The bound in bytes with one more lane."""
        kind, share = lane.cell.student.canonical, self._batch_size / len(lane.probe.labels)
        if kind not in self._saved:
            self._saved[kind] = int(share * _saved(lane))
        modules = _bytes(lane.student) + _bytes(lane.method)
        self._lanes.append(Need(_COPIES * modules, _COPIES * (modules + self._saved[kind])))
        taught = lane.teacher_features
        outputs = 0 if taught is None else sum(t.nbytes for t in _tensors(taught))
        return together(Need(self._data + int(4 * share * outputs), 0), self._lanes)


def _saved(lane: Lane) -> int:
    """Bytes that the student's pass over the probe saves for its backward pass."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    lane.student.eval()
    counting = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    # What cannot be run here cannot be trained: the lane fails at its first step.
    with suppress(KtbenchError), own_code(), torch.enable_grad(), counting:
        lane.student.forward_features(lane.inputs.clone())
    lane.student.train()
    return sum(found.values())


def _tensors(features: Features) -> list[Tensor]:
    alone = [t for t in (features.logits, features.embedding, features.stem) if t is not None]
    return [*alone, *features.stages, *features.preacts]
