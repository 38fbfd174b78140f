"""The training loop: every student of a cohort steps on one batch and one teacher output."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ktbench.data import Dataset, Stream
from ktbench.files import write_atomically
from ktbench.layout import Layout
from ktbench.numeric import prepare
from ktbench.records import (
    Accuracies,
    Cell,
    Checkpoint,
    Cost,
    Failure,
    KtbenchError,
    StorageError,
    one_line,
)
from ktbench.supervision import mark
from ktbench.teacher.source import TeacherSource
from ktbench.train.budget import Budget
from ktbench.train.curves import write_curves
from ktbench.train.lane import Lane
from ktbench.train.opening import Cohort, Note, Opening, Places, cohorts
from ktbench.train.placing import make_batch, make_probe, placed
from ktbench.train.terms import Diverged
from ktbench.weights import load_weights, weights_digest
from transfer_methods._contract import Batch, Needs

PROBE_IMAGES = 16
CPU = torch.device("cpu")
INTERVAL_VARIABLE = "KTBENCH_CHECKPOINT_SECONDS"
INTERVAL_S = 20.0
"""Time between two checkpoints of an unfinished training, where the variable says nothing else."""


@dataclass(frozen=True)
class Progress:
    """How far a cohort is: epochs done of all epochs of all its cells."""

    done: int
    total: int


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
    probe = _probe(stream, device)
    opening = Opening(dataset, teacher, places, base, probe, note, first_weights, layouts)
    outcomes: list[Checkpoint | Failure] = []
    done = 0
    for cohort in cohorts(cells, opening, stream, budget):
        failed = sum(isinstance(lane, Failure) for lane in cohort.lanes)
        before = (done + failed) * first.train.epochs

        def tell(progress: Progress, before: int = before) -> None:
            report(Progress(before + progress.done, len(cells) * first.train.epochs))

        outcomes += _train_together(
            cohort, stream, teacher, places, tell, note, interval, safeguard
        )
        done += len(cohort.lanes)
        del cohort  # before the next one is opened
    return outcomes


def _train_together(
    cohort: Cohort,
    stream: Stream,
    teacher: TeacherSource | None,
    places: Callable[[Cell], Places],
    report: Callable[[Progress], None],
    note: Note,
    interval: float,
    safeguard: bool,
) -> list[Checkpoint | Failure]:
    """Train the lanes that could be opened; the outcomes of all, in order."""
    before = teacher.digest if teacher is not None else None
    running = [lane for lane in cohort.lanes if isinstance(lane, Lane)]
    _tell_resumed(running, note)
    _train(running, stream, teacher, places, report, interval, safeguard, cohort.tidy)
    if teacher is not None and teacher.digest != before:
        raise KtbenchError("the teacher's weights or buffers changed while its students learnt")
    return [lane if isinstance(lane, Failure) else _finish(lane, places) for lane in cohort.lanes]


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


def _tell_resumed(lanes: Sequence[Lane], note: Note) -> None:
    resumed = [lane for lane in lanes if lane.epoch]
    if resumed:
        first, more = resumed[0], len(resumed) - 1
        others = f" (and {more} more)" if more else ""
        note(f"went on after epoch {first.epoch}: {first.cell.label}{others}")


def _train(
    lanes: Sequence[Lane],
    stream: Stream,
    teacher: TeacherSource | None,
    places: Callable[[Cell], Places],
    report: Callable[[Progress], None],
    checkpoint_seconds: float,
    safeguard: bool,
    tidy: Callable[[], None],
) -> None:
    epochs = lanes[0].cell.train.epochs if lanes else 0
    saved = time.monotonic()
    for epoch in range(min((lane.epoch for lane in lanes), default=0), epochs):
        active = [lane for lane in lanes if lane.failure is None and lane.epoch == epoch]
        starts = [(places(lane.cell).work, _packed(lane)) for lane in active] if safeguard else []
        try:
            _epoch(active, stream, teacher, epoch, epochs, tidy)
        except StorageError:
            for path, start in starts:
                write_atomically(path, start)
            raise
        report(Progress(sum(epochs if x.failure else x.epoch for x in lanes), epochs * len(lanes)))
        if time.monotonic() - saved >= checkpoint_seconds and epoch + 1 < epochs:
            for lane in active:
                if lane.failure is None:
                    _save(lane, places(lane.cell).work)
            saved = time.monotonic()


def _epoch(
    active: list[Lane],
    stream: Stream,
    teacher: TeacherSource | None,
    epoch: int,
    epochs: int,
    tidy: Callable[[], None],
) -> None:
    """One pass over the training set for the lanes that stand at this epoch."""
    steps = stream.steps_per_epoch
    started = time.perf_counter()
    for number, indices in enumerate(stream.order(epoch)):
        active = [lane for lane in active if lane.failure is None]
        if not active:
            return
        step = epoch * steps + number
        clock = time.perf_counter()
        batch = make_batch(
            stream,
            indices,
            epoch=epoch,
            step=step,
            steps=epochs * steps,
            device=active[0].device,
        )
        data_seconds = time.perf_counter() - clock
        needs = _union(active, batch.progress)
        features = None
        if teacher is not None and needs:
            tidy()
            mark(stage="running the teacher", what=f"step {step}")
            features = teacher.outputs(batch, needs)
        for lane in active:
            lane.seconds += data_seconds
            reads = bool(lane.needs(batch.progress))
            if features is not None and teacher is not None and reads:
                lane.teacher_seconds += teacher.seconds()
                lane.teacher_flops += teacher.flops()
            tidy()
            with _failing_alone(lane, step):
                lane.step(batch, features if reads else None)
    for lane in active:
        if lane.failure is None:
            with _failing_alone(lane, (epoch + 1) * steps - 1):
                lane.end_epoch(step=(epoch + 1) * steps, progress=(epoch + 1) / epochs)
    done = [lane for lane in active if lane.failure is None]
    for lane in done:
        lane.shared_seconds += (time.perf_counter() - started) / len(done)


@contextmanager
def _failing_alone(lane: Lane, step: int) -> Iterator[None]:
    """What goes wrong in a student or a method, a user's own too, ends that lane and no other."""
    mark(lane.cell.key, "training", f"step {step}")
    try:
        yield
    except Exception as error:
        at = error.step if isinstance(error, Diverged) else step
        lane.failure = Failure(stage="train", reason=one_line(error), step=at)


def _union(lanes: Sequence[Lane], progress: float) -> Needs:
    needs = Needs()
    for lane in lanes:
        needs |= lane.needs(progress)
    return needs


def _probe(stream: Stream, device: torch.device = CPU) -> Batch:
    """The first training images as they are, to find shapes and similarities."""
    return make_probe(stream, PROBE_IMAGES, device)


# ---------------------------------------------------------------- closing a lane


def _save(lane: Lane, path: Path) -> None:
    write_atomically(path, _packed(lane))


def _packed(lane: Lane) -> bytes:
    buffer = io.BytesIO()
    torch.save(lane.state(), buffer)
    return buffer.getvalue()


def _finish(lane: Lane, places: Callable[[Cell], Places]) -> Checkpoint | Failure:
    """Read the test set, once, and write weights and curves.

    The saved work stays until the caller has written the cell's result, so that a run killed in
    between does not train again.
    """
    place = places(lane.cell)
    mark(lane.cell.key, "reading the test set")
    if lane.failure is not None:
        place.work.unlink(missing_ok=True)
        return lane.failure
    _save(lane, place.work)
    if reason := lane.unfit():
        place.work.unlink(missing_ok=True)
        steps = lane.rows[-1]["step"]
        return Failure(stage="train", reason=reason, step=max(0, steps - 1))
    last = {name: value.clone() for name, value in lane.student.state_dict().items()}
    test_last = lane.accuracy("test")
    lane.student.load_state_dict(lane.best_state)
    test_best = lane.accuracy("test")
    kept = last if lane.cell.train.keep == "last" else lane.best_state
    kept = {name: value.cpu().contiguous() for name, value in kept.items()}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    write_atomically(place.weights, buffer.getvalue())
    write_curves(lane.rows, place.curves)
    return Checkpoint(
        cell_key=lane.cell.key,
        path=str(place.weights.relative_to(place.root)),
        digest=weights_digest(kept),
        curves=str(place.curves.relative_to(place.root)),
        parameters=sum(p.numel() for p in lane.student.parameters()),
        epochs=lane.epoch,
        accuracy=Accuracies(
            validation_last=lane.rows[-1]["validation_accuracy"],
            validation_best=lane.best_validation,
            best_epoch=lane.best_epoch,
            test_last=test_last,
            test_best=test_best,
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
    lane.end_without_training()
    finished = _finish(lane, lambda _: places)
    if isinstance(finished, Failure):
        raise KtbenchError(f"{checkpoint}: with these weights the network's logits are not finite")
    return finished
