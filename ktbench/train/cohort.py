"""The training loop: every student of a cohort steps on one batch and one teacher output."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ktbench.data import Dataset, Stream
from ktbench.isolation import Guard, noting_signals, own_code
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import load_weights, weights_digest
from ktbench.records import Accuracies, Cell, Checkpoint, Cost, Failure, KtbenchError
from ktbench.system.files import write_atomically
from ktbench.teacher.source import TeacherSource
from ktbench.train.cohort_steps import Progress, Together
from ktbench.train.curves import write_curves
from ktbench.train.device_placement import make_probe, placed
from ktbench.train.loss_log import Diverged
from ktbench.train.memory_budget import Budget
from ktbench.train.start import Note, Opening, Places, cohorts
from ktbench.train.trainee import Lane
from ktbench.transfer_methods._contract import Batch

PROBE_IMAGES = 16
CPU = torch.device("cpu")
INTERVAL_VARIABLE = "KTBENCH_CHECKPOINT_SECONDS"
INTERVAL_S = 20.0
"""Time between two checkpoints of an unfinished training, where the variable says nothing else."""


def train_cohort(
    cells: Sequence[Cell],
    *,
    dataset: Dataset,
    teacher: TeacherSource | None,
    places: Callable[[Cell], Places],
    base: Path,
    report: Callable[[Progress], None] = lambda _: None,
    note: Note = lambda _: None,
    checkpoint_seconds: float | None = None,
    memory: int | None = None,
    workers: int = 1,
    safeguard: bool = False,
    first_weights: Callable[[Cell], Path | None] = lambda _: None,
    layouts: Callable[[Cell], Layout | None] = lambda _: None,
) -> list[Checkpoint | Failure]:
    """Train cells that share teacher, data, seed and budget; one result per cell, in order.

    A cell's weights do not depend on the others. One that diverges, or whose method fails, leaves
    with a Failure; the others go on. A killed training goes on from its last checkpoint, which is
    written every `checkpoint_seconds` (`checkpoint_interval` when not given). The cells are
    trained together as far as this process stays under `memory` bytes; when not given, it takes
    half of what is free here, divided by the number of `workers` that train at once. With
    `safeguard` the start of each epoch is held in memory, and written when a StorageError ends the
    training: a source whose workers may all go needs it. `first_weights` names the file from which
    a cell with a `start` begins; such a cell without one is a Failure. `layouts` says how a cell's
    student is run; where it says nothing, its own layers decide.
    """
    interval = checkpoint_interval() if checkpoint_seconds is None else checkpoint_seconds
    first = cells[0]
    device = prepare(first.numeric)
    dataset = placed(dataset, device)
    stream = Stream(dataset, first.seed, first.train.batch_size, first.train.views)
    budget = partial(Budget.here, memory, device=first.numeric.device, workers=workers)
    outcomes: list[Checkpoint | Failure] = []
    done = 0
    with noting_signals(), Guard() as guard:  # in this order: the guard keeps those handlers
        probe = _probe(stream, device)
        given = (dataset, teacher, places, base, probe, note, first_weights, layouts, guard)
        opening = Opening(*given)
        for cohort in cohorts(cells, opening, stream, budget):
            failed = sum(isinstance(lane, Failure) for lane in cohort.lanes)
            before = (done + failed) * first.train.epochs

            def tell(progress: Progress, before: int = before) -> None:
                report(Progress(before + progress.done, len(cells) * first.train.epochs))

            together = Together(cohort, opening, stream, tell, interval, safeguard)
            outcomes += _train_together(together)
            done += len(cohort.lanes)
            del cohort, together  # before the next one is opened
    return outcomes


def _train_together(together: Together) -> list[Checkpoint | Failure]:
    """Train the lanes that could be opened; the outcomes of all, in order."""
    teacher = together.opening.teacher
    before = teacher.digest if teacher is not None else None
    together.train()
    if teacher is not None and teacher.digest != before:
        raise KtbenchError("the teacher's weights or buffers changed while its students learnt")
    return [
        lane if isinstance(lane, Failure) else _finish(lane, together)
        for lane in together.cohort.lanes
    ]


def checkpoint_interval() -> float:
    """Seconds between two checkpoints: `$KTBENCH_CHECKPOINT_SECONDS`, or 20; 0 is every epoch."""
    text = os.environ.get(INTERVAL_VARIABLE)
    if not text:
        return INTERVAL_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise KtbenchError(f"{INTERVAL_VARIABLE}={text}: must be seconds, 0 or more")
    return seconds


def _probe(stream: Stream, device: torch.device = CPU) -> Batch:
    """The first training images as they are, to find shapes and similarities."""
    return make_probe(stream, PROBE_IMAGES, device)


# ---------------------------------------------------------------- closing a lane


def _finish(lane: Lane, together: Together) -> Checkpoint | Failure:
    """The checkpoint of a lane at its end, or why it has none.

    The saved work stays until the caller has written the cell's result, so that a run killed in
    between does not train again.
    """
    places = together.opening.places(lane.cell)
    if lane.failure is None:
        together.save(lane)
    closed: list[Closed] = []
    if lane.failure is None:
        together.alone(lane, lambda: closed.append(_close(lane)), doing="reading the test set")
    if lane.failure is not None:
        places.work.unlink(missing_ok=True)
        return lane.failure
    return _written(lane, places, *closed)


@dataclass(frozen=True)
class Closed:
    """What is known of a network that is trained."""

    kept: dict[str, Tensor]
    parameters: int
    test_last: float
    test_best: float


def _close(lane: Lane) -> Closed:
    """Read the test set, once; raises Diverged for a network of no use."""
    if reason := lane.unfit():
        raise Diverged(reason, max(0, lane.rows[-1]["step"] - 1))
    last = {name: value.clone() for name, value in lane.student.state_dict().items()}
    test_last = lane.accuracy("test")
    lane.student.load_state_dict(lane.best_state)
    test_best = lane.accuracy("test")
    kept = last if lane.cell.train.keep == "last" else lane.best_state
    kept = {name: value.cpu().contiguous() for name, value in kept.items()}
    return Closed(kept, sum(p.numel() for p in lane.student.parameters()), test_last, test_best)


def _written(lane: Lane, place: Places, closed: Closed) -> Checkpoint:
    """The record of a trained network, whose weights and curves are written."""
    buffer = io.BytesIO()
    torch.save(closed.kept, buffer)
    write_atomically(place.weights, buffer.getvalue())
    write_curves(lane.rows, place.curves)
    return Checkpoint(
        cell_key=lane.cell.key,
        path=str(place.weights.relative_to(place.root)),
        digest=weights_digest(closed.kept),
        curves=str(place.curves.relative_to(place.root)),
        parameters=closed.parameters,
        epochs=lane.epoch,
        accuracy=Accuracies(
            validation_last=lane.rows[-1]["validation_accuracy"],
            validation_best=lane.best_validation,
            best_epoch=lane.best_epoch,
            test_last=closed.test_last,
            test_best=closed.test_best,
        ),
        cost=Cost(
            seconds=lane.seconds,
            teacher_seconds=lane.teacher_seconds,
            shared_seconds=lane.shared_seconds,
            flops=lane.flops,
            teacher_flops=lane.teacher_flops,
        ),
        layout=lane.layout.record,
    )


def adopt(
    cell: Cell,
    checkpoint: Path,
    *,
    dataset: Dataset,
    places: Places,
    base: Path,
    layout: Layout | None = None,
) -> Checkpoint:
    """A user's own weights as the checkpoint of a cell that was never trained here.

    Raises KtbenchError when the file does not hold weights of the cell's network.
    """
    device = prepare(cell.numeric)
    dataset = placed(dataset, device)
    probe = _probe(Stream(dataset, cell.seed, cell.train.batch_size), device)
    lane = Lane(cell, dataset, base, probe, None, asked=layout)
    load_weights(lane.student, checkpoint, finite=True)
    with own_code():
        lane.end_without_training()
        if lane.unfit():
            problem = "with these weights the network's logits are not finite"
            raise KtbenchError(f"{checkpoint}: {problem}")
        closed = _close(lane)
    return _written(lane, places, closed)
