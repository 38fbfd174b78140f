"""The steps of a cohort: one batch and one teacher output for all of its students."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ktbench.data import Stream
from ktbench.records import Failure, KtbenchError, StorageError, one_line
from ktbench.supervision import mark
from ktbench.system.files import write_atomically
from ktbench.train.context import Note, Progress, TrainingContext
from ktbench.train.device_placement import make_batch
from ktbench.train.loss_log import Diverged
from ktbench.train.shared_tensors import LentFeatures, Spoilt, Watch
from ktbench.train.start import Cohort, TraineeBuilder
from ktbench.train.trainee import Trainee
from ktbench.transfer_methods._contract import Batch, Needs

_CHANGED = "the code of another cell changed what all of them use"


@dataclass
class CohortTraining:
    """A cohort in training: its trainees, where one that has failed stays, and what they share."""

    cohort: Cohort
    builder: TraineeBuilder
    stream: Stream
    report: Callable[[Progress], None]
    _epochs: int = 0

    def __post_init__(self) -> None:
        """Follow from here on what is shared."""
        builder, context = self.builder, self.context
        self._watch = Watch(builder.guard, self.stream, context.base, builder.note_settings)

    @property
    def context(self) -> TrainingContext:
        """Everything that the training depends on besides its cells."""
        return self.builder.context

    def train(self) -> None:
        """Train every trainee to its end, or until it fails."""
        _note_resumed(self._opened, self.context.note)
        if not self._opened:
            return
        self._epochs = self._opened[0].cell.train.epochs
        # Each attempt but the first follows the failure of one of them.
        for _ in range(len(self.cohort.trainees) + 1):
            if self._train_to_end():
                return
            self._go_back()
        raise KtbenchError("what the cells of a cohort share was changed again and again")

    @property
    def _opened(self) -> list[Trainee]:
        return [trainee for trainee in self.cohort.trainees if isinstance(trainee, Trainee)]

    def _train_to_end(self) -> bool:
        """Train the remaining epochs; False where some learnt from what was changed."""
        trainees, saved = self._opened, time.monotonic()
        try:
            for epoch in range(min(t.epoch for t in trainees), self._epochs):
                active = [t for t in _without_failure(trainees) if t.epoch == epoch]
                self._train_epoch_safely(active, epoch)
                done = sum(self._epochs if t.failure else t.epoch for t in trainees)
                self.report(Progress(done, self._epochs * len(trainees)))
                interval = self.context.interval
                if time.monotonic() - saved >= interval and epoch + 1 < self._epochs:
                    # What is saved is what the cohort goes back to: it must be sound.
                    left = _without_failure(active)
                    self._watch.look(left, alone=len(active) == 1)
                    for trainee in left:
                        if trainee.failure is None:
                            self.save(trainee)
                    saved = time.monotonic()
        except Spoilt:
            return False
        return True

    def _go_back(self) -> None:
        """Open the trainees where they were last saved; every step is checked from there on."""
        self._watch.strict = True
        for number, trainee in enumerate(self.cohort.trainees):
            if isinstance(trainee, Trainee) and trainee.failure is None:
                cell, note = trainee.cell, self.context.note
                note(f"goes back to its last checkpoint: {cell.label}: {_CHANGED}")
                # The old one is freed before the new one is there.
                self.cohort.trainees[number] = trainee = Failure(stage="train", reason=_CHANGED)
                self.cohort.trainees[number] = self.builder.open(cell, note)

    def save(self, trainee: Trainee) -> None:
        """Write a trainee's checkpoint; one that cannot give its state fails."""
        content = self._packed(trainee)
        if content is not None:
            write_atomically(self.context.places(trainee.cell).work, content)

    def _packed(self, trainee: Trainee) -> bytes | None:
        buffer = io.BytesIO()
        self.isolated(trainee, lambda: torch.save(trainee.state(), buffer), doing="saving")
        return buffer.getvalue() if trainee.failure is None else None

    # ------------------------------------------------------------ an epoch

    def _train_epoch_safely(self, active: list[Trainee], epoch: int) -> None:
        """Train an epoch; with `safeguard` its start is kept, and written if the source is lost."""
        safeguard = self.context.safeguard
        starts = [(t.cell, self._packed(t)) for t in active] if safeguard else []
        try:
            self._train_epoch(active, epoch)
        except StorageError:
            for cell, start in starts:
                if start is not None:
                    write_atomically(self.context.places(cell).work, start)
            raise

    def _train_epoch(self, active: list[Trainee], epoch: int) -> None:
        """Pass once over the training set with the trainees that have reached this epoch."""
        steps, alone = self.stream.steps_per_epoch, len(active) == 1
        began = time.perf_counter()
        for number, indices in enumerate(self.stream.order(epoch)):
            active = _without_failure(active)
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
        active = _without_failure(active)
        closely = epoch == 0 or epoch + 1 == self._epochs or self._watch.due
        if closely:  # first of all at what was done before: it is not the first validation's doing
            self._watch.look(active, alone=alone)
        active = _without_failure(active)
        end, progress = (epoch + 1) * steps, (epoch + 1) / self._epochs
        for trainee in active:
            validate = partial(trainee.end_epoch, step=end, progress=progress)
            self.isolated(
                trainee, validate, active, step=end - 1, doing="validating", closely=closely
            )
        left = _without_failure(active)
        for trainee in left:
            trainee.history.shared_seconds += (time.perf_counter() - began) / len(left)

    def _step(
        self, active: list[Trainee], batch: Batch, data_seconds: float, *, last: bool
    ) -> None:
        """Take a step with each trainee; what one of them changed is made again for the rest."""
        needs = Needs()
        for trainee in active:
            needs |= trainee.needs(batch.progress)
        closely = last or any(self._watch.closely(trainee) for trainee in active)
        lent = self._lend(batch, needs, closely=closely)
        for trainee in active:
            trainee.history.seconds += data_seconds
            reads = lent is not None and bool(trainee.needs(batch.progress))
            if reads and self.context.teacher is not None:
                trainee.history.teacher_seconds += self.context.teacher.seconds()
                trainee.history.teacher_flops += self.context.teacher.flops()
            self.cohort.trim_heap()
            features = lent.features() if lent is not None and reads else None
            self.isolated(trainee, partial(trainee.step, batch, features), active, step=batch.step)
            if lent is None:
                continue
            if reason := self._watch.written(trainee, lent, alone=len(active) == 1):
                trainee.failure = Failure(stage="train", reason=reason, step=batch.step)
                lent = self._lend(batch, needs, closely=closely)

    def _lend(self, batch: Batch, needs: Needs, *, closely: bool) -> LentFeatures | None:
        """Run the teacher on a batch; None where nobody reads it."""
        if self.context.teacher is None or not needs:
            return None
        self.cohort.trim_heap()
        mark(stage="running the teacher", what=f"step {batch.step}")
        # What students did and is only seen late would be taken for the teacher's doing.
        with self.builder.guard.kept(all_of_it=self._watch.strict):
            lent = LentFeatures(self.context.teacher.outputs(batch, needs))
        if closely:
            lent.read_all()
        return lent

    def isolated(
        self,
        trainee: Trainee,
        work: Callable[[], object],
        others: Sequence[Trainee] = (),
        *,
        step: int | None = None,
        doing: str = "training",
        closely: bool | None = None,
    ) -> None:
        """Do work of a trainee, whose student or method may raise anything: that ends it alone."""
        mark(trainee.cell.key, doing, "" if step is None else f"step {step}")
        try:
            looked_at = doing != "training" if closely is None else closely
            self._watch.work(trainee, work, others, closely=looked_at)
        except KtbenchError as error:
            at = error.step if isinstance(error, Diverged) else step
            trainee.failure = Failure(stage="train", reason=one_line(error), step=at)


def _without_failure(trainees: Iterable[Trainee]) -> list[Trainee]:
    return [trainee for trainee in trainees if trainee.failure is None]


def _note_resumed(trainees: Sequence[Trainee], note: Note) -> None:
    resumed = [trainee for trainee in trainees if trainee.epoch]
    if resumed:
        first, more = resumed[0], len(resumed) - 1
        others = f" (and {more} more)" if more else ""
        note(f"went on after epoch {first.epoch}: {first.cell.label}{others}")
