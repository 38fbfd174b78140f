"""Measures the memory of a training, and splits cells into cohorts that fit into a limit.

A cohort holds what every student keeps between steps, and one student's step at a time:

    what is shared + the sum of what stays + SPREAD times the largest step or teacher pass

All are measured on throw-away trainees, which take one real step in each of their phases. Where
a crude bound is far below the limit, nothing is measured.
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
from ktbench.data.mapped import is_mapped
from ktbench.isolation import Guard, own_code
from ktbench.records import Cell, KtbenchError
from ktbench.students._contract import Features, each, parts
from ktbench.supervision import mark
from ktbench.teacher.source import TeacherSource
from ktbench.train.device_placement import make_batch
from ktbench.train.memory_budget import Budget, give_back, resident
from ktbench.train.trainee import EVALUATION_BATCH, Trainee
from ktbench.transfer_methods._contract import Batch

Result = TypeVar("Result")

ROOMY = 4
"""A crude bound this many times below the limit is trusted."""
SPREAD = 2
"""A process grows by more than a step's tensors take, as freed blocks lie scattered in its heap:
by 1.3 to 1.9 times as much with glibc."""
_COPIES = 4
"""Bound of what a trainee keeps, in sizes of its modules: themselves, two moments of an optimiser,
the best weights. Also of what a method adds to a step: ReviewKD, the largest, triples it."""


@dataclass(frozen=True)
class Need:
    """Bytes of something in training: what stays between steps, and what a step takes on top."""

    stays: int
    step: int


def cohort_bytes(shared: Need, needs: Iterable[Need]) -> int:
    """Return the most that a cohort of these trainees holds: only one of them steps at a time."""
    each = list(needs)
    largest = max(need.step for need in [shared, *each])
    return shared.stays + sum(need.stays for need in each) + SPREAD * largest


def split_by_memory(shared: Need, needs: Sequence[Need], room: int) -> list[list[int]]:
    """Split trainees into cohorts that fit into `room` bytes; positions, in order.

    A trainee that does not fit by itself is a cohort of its own.
    """
    cohorts: list[list[int]] = []
    for number, need in enumerate(needs):
        joined = [needs[i] for i in cohorts[-1]] if cohorts else []
        if joined and cohort_bytes(shared, [*joined, need]) <= room:
            cohorts[-1].append(number)
        else:
            cohorts.append([number])
    return cohorts


def notes_for_user(
    cells: Sequence[Cell],
    shared: Need,
    needs: Sequence[Need],
    cohorts: Sequence[Sequence[int]],
    budget: Budget,
) -> list[str]:
    """Return lines that tell of a split, and of the cells that do not fit at all."""
    notes = []
    limit = f"(limit {_gigabytes(budget.limit)})"
    if len(cohorts) > 1:
        most = max(map(len, cohorts))
        notes.append(f"memory: cohorts of {most} instead of {len(cells)} {limit}")
    alone = [cohort_bytes(shared, [need]) for need in needs]
    too_large = [number for number, size in enumerate(alone) if size > budget.room]
    if too_large:
        first = max(too_large, key=lambda number: alone[number])
        held = budget.limit - budget.room
        more = f" (and {len(too_large) - 1} more)" if len(too_large) > 1 else ""
        notes.append(
            f"memory: {cells[first].label} takes {_gigabytes(held + alone[first])} with the "
            f"program itself, more than the limit: trained alone{more}"
        )
    return notes


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def heap_trimmer(
    shared: Need, needs: Sequence[Need], budget: Budget, device: str
) -> Callable[[], None]:
    """Return a function to call before each pass and step, which keeps the heap below the limit.

    The heap grows with every trainee, as freed blocks of a step lie between what stays. They are
    given back when the next step might not fit, and only then, as it must fetch them again.
    """
    largest = max(need.step for need in [shared, *needs])

    def trim_heap() -> None:
        if device == "cpu" and resident() + SPREAD * largest > budget.limit:
            give_back()

    return trim_heap


# ---------------------------------------------------------------- measured


def measure(
    cells: Sequence[Cell],
    build: Callable[[Cell], Trainee],
    stream: Stream,
    teacher: TeacherSource | None,
    guard: Guard | None = None,
) -> tuple[Need, list[Need]]:
    """Measure what a cohort of the cells takes once, and what each of its trainees takes.

    Cells of the same student and method are measured once. One that fails here will fail in the
    same way when it is trained: it takes nothing.
    """
    device, guard = cells[0].numeric.device, guard or Guard()
    _, data = _measured(partial(_batch, stream, cells[0], 0), device)
    shared = [Need(2 * data.stays, data.step)]  # The last batch goes when the next one is there.
    by_kind: dict[str, Need] = {}
    with torch.random.fork_rng(devices=[]):
        for cell, kind in zip(cells, map(_kind, cells), strict=True):
            if kind in by_kind:
                continue
            by_kind[kind] = Need(0, 0)
            # What is raised here ends its own cell when that is trained, with its reason.
            with suppress(KtbenchError), guard.containing(all_of_it=True):
                outputs, by_kind[kind] = _dry_run(cell, build, stream, teacher)
                shared.append(Need(2 * data.stays + outputs.stays, outputs.step))
    return _most(shared), [by_kind[kind] for kind in map(_kind, cells)]


def _kind(cell: Cell) -> str:
    """Return a text that is equal for cells of a cohort that take the same memory."""
    # Weights to start from may decide on a student's structure; a cohort's cells share their seed.
    start = cell.start.canonical if cell.start else ""
    start += cell.pretrained.canonical if cell.pretrained else ""
    start += cell.from_file.canonical if cell.from_file else ""
    window = cell.distill.canonical if cell.distill else ""
    return cell.student.canonical + cell.method.canonical + start + window


def _dry_run(
    cell: Cell, build: Callable[[Cell], Trainee], stream: Stream, teacher: TeacherSource | None
) -> tuple[Need, Need]:
    """Measure the teacher's outputs and a trainee: all phases' edge steps, and a validation.

    Compiled networks are measured as they are before compilation, which only takes less.
    """
    device = cell.numeric.device
    mark(cell.key, "measuring the memory of a training step", cell.label)
    plain = cell.numeric.model_copy(update={"compile": False})
    trainee, built = _measured(lambda: build(cell.model_copy(update={"numeric": plain})), device)
    needs, outputs = [built], [Need(0, 0)]
    for step in _edge_steps(trainee, stream.steps_per_epoch * cell.train.epochs):
        batch = _batch(stream, cell, step)
        read = trainee.needs(batch.progress)
        features = None
        if teacher is not None and read:
            features, ran = _measured(partial(teacher.outputs, batch, read), device)
            outputs.append(ran)
        needs.append(_measured(partial(trainee.step, batch, features), device)[1])
    needs.append(_measured(partial(_validate, trainee), device)[1])
    stays = sum(n.stays for n in needs) + _bytes(trainee.student)  # and the best weights
    # A checkpoint is written from memory: its bytes, and some of them twice while they grow.
    return _most(outputs), Need(stays, max(2 * stays, *(n.step for n in needs)))


def _most(needs: Sequence[Need]) -> Need:
    return Need(max(n.stays for n in needs), max(n.step for n in needs))


def _edge_steps(trainee: Trainee, steps: int) -> list[int]:
    """Return the first and the last step of each stretch of a training of so many steps."""
    ends = [0, *(math.ceil(edge * steps) for edge in trainee.phases.edges), steps]
    return [step for a, b in pairwise(ends) if a < b for step in sorted({a, b - 1})]


def _batch(stream: Stream, cell: Cell, step: int) -> Batch:
    """Make the very batch of a step: a teacher source may keep its outputs for it."""
    steps = stream.steps_per_epoch
    epoch, number = divmod(step, steps)
    return make_batch(
        stream,
        stream.order(epoch)[number],
        epoch=epoch,
        step=step,
        steps=steps * cell.train.epochs,
        device=torch.device(cell.numeric.device),
    )


def _validate(trainee: Trainee) -> None:
    """Evaluate one chunk as `Trainee.judged` does."""
    data = trainee.shared.dataset
    inputs = data.some("validation", slice(EVALUATION_BATCH))
    trainee.student.eval()
    with torch.inference_mode():
        trainee.logits(each(inputs, lambda part: part.to(trainee.device)))
    trainee.student.train()


def _measured(work: Callable[[], Result], device: str) -> tuple[Result, Need]:
    """Run something; return its result, and the bytes of tensors that it left and had at most."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated() - before
        return result, Need(max(0, held), torch.cuda.max_memory_allocated() - before)
    give_back()  # A process near its limit must not grow by being measured.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each profile prints two lines
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return result, Need(max(0, held), most)


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))


# ---------------------------------------------------------------- bounded


class MemoryBound:
    """A crude upper bound of a growing cohort's memory, from its trainees as they are built.

    A step is bounded by what the student's own pass saves for its backward pass. What a method
    adds beyond three times that, it adds alone as well, and is not multiplied by the cohort.
    """

    def __init__(self, stream: Stream) -> None:
        size = min(stream.batch_size, stream.dataset.size("train"))
        self._batch_size = size
        self._saved: dict[str, int] = {}
        raw = parts(stream.dataset.raw("train"))
        # The samples once more, images padded, unless they are mapped from the disk; a batch as
        # indices, bytes and twice as fp32, and the next.
        held = sum(part.nbytes for part in raw if not is_mapped(part))
        self._data = 2 * held + 16 * sum(part[:size].numel() for part in raw)
        self._needs: list[Need] = []

    def add(self, trainee: Trainee) -> int:
        """Return the bound in bytes with one more trainee."""
        shared, kind = trainee.shared, trainee.cell.student.canonical
        share = self._batch_size / len(shared.probe.indices)
        if kind not in self._saved:
            self._saved[kind] = int(share * _saved_for_backward(trainee))
        modules = _bytes(trainee.student) + _bytes(trainee.method)
        self._needs.append(Need(_COPIES * modules, _COPIES * (modules + self._saved[kind])))
        features = shared.teacher_features
        outputs = 0 if features is None else sum(t.nbytes for t in _tensors(features))
        return cohort_bytes(Need(self._data + int(4 * share * outputs), 0), self._needs)


def _saved_for_backward(trainee: Trainee) -> int:
    """Return the bytes that the student's pass over the probe saves for its backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    trainee.student.eval()
    counting = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    # What cannot be run here cannot be trained: the trainee fails at its first step.
    with suppress(KtbenchError), own_code(), torch.enable_grad(), counting:
        trainee.student.forward_features(each(trainee.probe_inputs, Tensor.clone))
    trainee.student.train()
    return sum(sizes.values())


def _tensors(features: Features) -> list[Tensor]:
    perhaps = (features.logits, features.embedding, features.stem, features.mask)
    single = [tensor for tensor in perhaps if tensor is not None]
    heads = chain.from_iterable(features.attentions)
    return [*single, *features.stages, *features.preacts, *features.sums, *heads]
