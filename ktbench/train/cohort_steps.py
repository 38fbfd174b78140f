"""The steps of a cohort: one batch and one teacher output for all of its students."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ktbench.data import Stream
from ktbench.records import Failure, KtbenchError, StorageError, one_line
from ktbench.supervision import mark
from ktbench.system.files import write_atomically
from ktbench.train.device_placement import make_batch
from ktbench.train.loss_log import Diverged
from ktbench.train.shared_tensors import Lent, Spoilt, Watch
from ktbench.train.start import Cohort, Note, Opening
from ktbench.train.trainee import Lane
from ktbench.transfer_methods._contract import Batch, Needs


@dataclass(frozen=True)
class Progress:
    """How far a cohort is: epochs done of all epochs of all its cells."""

    done: int
    total: int


@dataclass
class Together:
    """A cohort in training: its lanes, where one that has failed stays, and what they share."""

    cohort: Cohort
    opening: Opening
    stream: Stream
    report: Callable[[Progress], None]
    interval: float
    """Seconds between two checkpoints."""
    safeguard: bool
    _epochs: int = 0

    def __post_init__(self) -> None:
        """What is shared is followed from here on."""
        opening = self.opening
        self._watch = Watch(opening.guard, self.stream, opening.base, opening.tell)

    def train(self) -> None:
        """Train every lane to its end, or until it fails."""
        _tell_resumed(self._running, self.opening.note)
        if not self._running:
            return
        self._epochs = self._running[0].cell.train.epochs
        for _ in range(
            len(self.cohort.lanes) + 1
        ):  # each time but the first, one has failed for it
            if self._trained():
                return
            self._go_back()
        raise KtbenchError("what the cells of a cohort share was changed again and again")

    @property
    def _running(self) -> list[Lane]:
        return [lane for lane in self.cohort.lanes if isinstance(lane, Lane)]

    def _trained(self) -> bool:
        """Whether the training came to its end; not where some learnt from what was changed."""
        lanes, saved = self._running, time.monotonic()
        try:
            for epoch in range(min(lane.epoch for lane in lanes), self._epochs):
                active = [x for x in lanes if x.failure is None and x.epoch == epoch]
                self._safe_epoch(active, epoch)
                done = sum(self._epochs if x.failure else x.epoch for x in lanes)
                self.report(Progress(done, self._epochs * len(lanes)))
                if time.monotonic() - saved >= self.interval and epoch + 1 < self._epochs:
                    # What is saved is what the cohort goes back to: it must be sound.
                    left = [lane for lane in active if lane.failure is None]
                    self._watch.look(left, alone=len(active) == 1)
                    for lane in left:
                        if lane.failure is None:
                            self.save(lane)
                    saved = time.monotonic()
        except Spoilt:
            return False
        return True

    def _go_back(self) -> None:
        """Open the lanes anew where they were last saved; from there on every step is checked."""
        self._watch.strict = True
        for number, lane in enumerate(self.cohort.lanes):
            if isinstance(lane, Lane) and lane.failure is None:
                cell, note = lane.cell, self.opening.note
                note(f"goes back to its last checkpoint: {cell.label}: {_CHANGED}")
                # The old one is freed before the new one is there.
                self.cohort.lanes[number] = lane = Failure(stage="train", reason=_CHANGED)
                self.cohort.lanes[number] = self.opening.open(cell, note)

    def save(self, lane: Lane) -> None:
        """Write a lane's checkpoint; one that cannot give its state fails."""
        content = self._packed(lane)
        if content is not None:
            write_atomically(self.opening.places(lane.cell).work, content)

    def _packed(self, lane: Lane) -> bytes | None:
        buffer = io.BytesIO()
        self.alone(lane, lambda: torch.save(lane.state(), buffer), doing="saving")
        return buffer.getvalue() if lane.failure is None else None

    # ------------------------------------------------------------ an epoch

    def _safe_epoch(self, active: list[Lane], epoch: int) -> None:
        """An epoch; with `safeguard` its start is kept, and written when the source is gone."""
        starts = [(x.cell, self._packed(x)) for x in active] if self.safeguard else []
        try:
            self._epoch(active, epoch)
        except StorageError:
            for cell, start in starts:
                if start is not None:
                    write_atomically(self.opening.places(cell).work, start)
            raise

    def _epoch(self, active: list[Lane], epoch: int) -> None:
        """One pass over the training set for the lanes that stand at this epoch."""
        steps, alone = self.stream.steps_per_epoch, len(active) == 1
        started = time.perf_counter()
        for number, indices in enumerate(self.stream.order(epoch)):
            active = [lane for lane in active if lane.failure is None]
            if not active:
                return
            clock = time.perf_counter()
            batch = make_batch(
                self.stream,
                indices,
                epoch=epoch,
                step=epoch * steps + number,
                steps=self._epochs * steps,
                device=active[0].device,
            )
            self._step(active, batch, time.perf_counter() - clock, last=number + 1 == steps)
        active = [lane for lane in active if lane.failure is None]
        closely = epoch == 0 or epoch + 1 == self._epochs or self._watch.due
        if closely:  # first of all at what was done before: it is not the first validation's doing
            self._watch.look(active, alone=alone)
        active = [lane for lane in active if lane.failure is None]
        for lane in active:
            done = (epoch + 1) / self._epochs
            end = partial(lane.end_epoch, step=(epoch + 1) * steps, progress=done)
            at = (epoch + 1) * steps - 1
            self.alone(lane, end, active, step=at, doing="validating", closely=closely)
        left = [lane for lane in active if lane.failure is None]
        for lane in left:
            lane.shared_seconds += (time.perf_counter() - started) / len(left)

    def _step(self, active: list[Lane], batch: Batch, data_seconds: float, *, last: bool) -> None:
        """One step of each lane; a batch that one of them has changed is made anew for the rest."""
        needs = Needs()
        for lane in active:
            needs |= lane.needs(batch.progress)
        closely = last or any(self._watch.closely(lane) for lane in active)
        lent = self._lent(batch, needs, closely=closely)
        for lane in active:
            lane.seconds += data_seconds
            reads = lent is not None and bool(lane.needs(batch.progress))
            if reads and self.opening.teacher is not None:
                lane.teacher_seconds += self.opening.teacher.seconds()
                lane.teacher_flops += self.opening.teacher.flops()
            self.cohort.tidy()
            features = lent.features() if lent is not None and reads else None
            self.alone(lane, partial(lane.step, batch, features), active, step=batch.step)
            if lent is None:
                continue
            if reason := self._watch.written(lane, lent, alone=len(active) == 1):
                lane.failure = Failure(stage="train", reason=reason, step=batch.step)
                lent = self._lent(batch, needs, closely=closely)

    def _lent(self, batch: Batch, needs: Needs, *, closely: bool) -> Lent | None:
        """What the teacher has to say of a batch; None where nobody asks."""
        if self.opening.teacher is None or not needs:
            return None
        self.cohort.tidy()
        mark(stage="running the teacher", what=f"step {batch.step}")
        # Of a student's doing, what is seen late would be taken for the teacher's.
        with self.opening.guard.kept(all_of_it=self._watch.strict):
            lent = Lent(self.opening.teacher.outputs(batch, needs))
        if closely:
            lent.read_all()
        return lent

    def alone(
        self,
        lane: Lane,
        work: Callable[[], object],
        others: Sequence[Lane] = (),
        *,
        step: int | None = None,
        doing: str = "training",
        closely: bool | None = None,
    ) -> None:
        """What goes wrong in a student or a method, a user's own too, ends that lane alone."""
        mark(lane.cell.key, doing, "" if step is None else f"step {step}")
        try:
            looked_at = doing != "training" if closely is None else closely
            self._watch.work(lane, work, others, closely=looked_at)
        except KtbenchError as error:
            at = error.step if isinstance(error, Diverged) else step
            lane.failure = Failure(stage="train", reason=one_line(error), step=at)


_CHANGED = "the code of another cell changed what all of them use"


def _tell_resumed(lanes: Sequence[Lane], note: Note) -> None:
    resumed = [lane for lane in lanes if lane.epoch]
    if resumed:
        first, more = resumed[0], len(resumed) - 1
        others = f" (and {more} more)" if more else ""
        note(f"went on after epoch {first.epoch}: {first.cell.label}{others}")
