"""Trains each block on the teacher's activations as they are produced, without storing them.

With the feed `relay` one pass trains every block, each inside the pass, where the block ends. With
`prefix` every block has its own passes, one block after the other, as in Blakeney et al.
(arXiv 2012.03096). A pass stops behind the last block that it feeds. Both feeds give the same
blocks, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ktbench.blockwise.block_training import BlockTraining
from ktbench.blockwise.blocks import BlockStore, BlockTask, to_bytes
from ktbench.blockwise.pipeline import Activations, ChainPlace, HandOver
from ktbench.blockwise.splice import try_replacement
from ktbench.blockwise.taps import Taps
from ktbench.blockwise.teacher_inputs import TeacherInputs
from ktbench.data import Dataset, Stream
from ktbench.networks.layout import frozen
from ktbench.networks.numeric import prepare
from ktbench.networks.weights import read_torch, weights_digest
from ktbench.records import (
    BlockResult,
    BlockTrain,
    Failure,
    KtbenchError,
    NumericSpec,
    StorageError,
    one_line,
)
from ktbench.students._contract import Inputs, Student
from ktbench.supervision import mark
from ktbench.system.files import write_atomically

Feed = Literal["relay", "prefix"]
Note = Callable[[str], None]
INTERVAL_S = 20.0
"""Default time between two checkpoints."""


def train_blocks(
    tasks: Sequence[BlockTask],
    *,
    teacher: Student,
    dataset: Dataset,
    spec: BlockTrain,
    numeric: NumericSpec,
    seed: int,
    store: BlockStore,
    feed: Feed = "relay",
    trained_on: Dataset | None = None,
    report: Callable[[float], None] = lambda _: None,
    note: Note = lambda _: None,
    checkpoint_seconds: float = INTERVAL_S,
    place: ChainPlace | None = None,
) -> list[BlockResult | Failure]:
    """Train blocks of a teacher that learnt from `trained_on`; one result per task, in order.

    A block's weights do not depend on the others, on the feed, or on where a run was stopped:
    those in the store are not trained again, unfinished ones go on from their checkpoints, which
    are written every `checkpoint_seconds` at the end of an epoch (0: of every epoch). A block that
    fails, or diverges before its first try, is a Failure; the others go on. In a `relay`, `place`
    is this worker's in a chain of several that share one pass of the teacher.
    """
    device = prepare(numeric)
    teacher.requires_grad_(False).eval().to(device)
    digest = weights_digest(teacher.state_dict())
    missing = [task for task in tasks if store.find(task.key) is None]
    failures: dict[str, Failure] = {}
    packs = [missing] if feed == "relay" else [[task] for task in missing]
    for number, pack in enumerate(pack for pack in packs if pack):

        def tell(share: float, done: int = number) -> None:
            report((done + share) / len(packs))

        hand_over = HandOver(place) if place is not None and feed == "relay" else None
        inputs = TeacherInputs(dataset, trained_on or dataset, device, frozen(numeric))
        training = _PackTraining(teacher, inputs, store, seed, numeric, hand_over)
        try:
            failures |= training.train(pack, spec, tell, note, checkpoint_seconds)
        finally:
            if hand_over is not None:
                hand_over.end()
    if weights_digest(teacher.state_dict()) != digest:
        raise KtbenchError("the teacher's weights or buffers changed while its blocks were trained")
    return [failures.get(task.key) or _trained(store, task) for task in tasks]


def _trained(store: BlockStore, task: BlockTask) -> BlockResult:
    result = store.find(task.key)
    if result is None:
        raise KtbenchError(f"{store.folder}: the block {task.name} has gone: run again")
    return result


@dataclass
class _PackTraining:
    """A pack of blocks in training, and what they share."""

    teacher: Student
    inputs: TeacherInputs
    store: BlockStore
    seed: int
    numeric: NumericSpec
    hand_over: HandOver | None = None

    def train(
        self,
        tasks: Sequence[BlockTask],
        spec: BlockTrain,
        report: Callable[[float], None],
        note: Note,
        interval: float,
    ) -> dict[str, Failure]:
        """Train a pack, with each block's result in the store; return the failures by key."""
        self.stream = Stream(self.inputs.dataset, self.seed, spec.batch_size)
        blocks = [task.block for task in tasks]
        self.taps = Taps(self.teacher, blocks, self.inputs.few())
        opened = [self._open(task, spec, note) for task in tasks]
        trainings = [each for each in opened if isinstance(each, BlockTraining)]
        saved = time.monotonic()
        for epoch in range(min((t.epoch for t in trainings), default=0), spec.epochs):
            active = [t for t in trainings if t.open and t.epoch == epoch]
            if active:
                self._epoch(active, epoch)
            if time.monotonic() - saved >= interval:
                for training in active:
                    if training.open:
                        path = self.store.work(training.task.key)
                        write_atomically(path, to_bytes(training.state()))
                saved = time.monotonic()
            report(sum(_share(t) for t in trainings) / len(trainings))
        ended = (t if isinstance(t, Failure) else t.failure for t in opened)
        pairs = zip(tasks, ended, strict=True)
        return {task.key: failure for task, failure in pairs if failure is not None}

    def _open(self, task: BlockTask, spec: BlockTrain, note: Note) -> BlockTraining | Failure:
        """Return a training at its start or at its last checkpoint."""
        mark(task.key, "building a block", task.name)

        def build() -> BlockTraining:
            steps = self.stream.steps_per_epoch
            device = self.inputs.device
            return BlockTraining(
                task, self.teacher, spec, self.seed, steps, device, numeric=self.numeric
            )

        work = self.store.work(task.key)
        try:
            training = build()
            if work.exists():
                try:
                    training.restore(read_torch(work))
                    note(f"went on after epoch {training.epoch}: block {task.name}")
                except Exception as error:  # only saved work: training again gives the same
                    note(f"trains from the start: block {task.name}: {one_line(error)}")
                    training = build()
        except (StorageError, OSError):
            raise
        except Exception as error:  # a replacement may raise anything
            return Failure(stage="train", reason=one_line(error), what=task.name, step=0)
        return training

    # ------------------------------------------------------------ an epoch

    def _epoch(self, active: Sequence[BlockTraining], epoch: int) -> None:
        """Pass once over the training images, then make tries that are due and store results."""
        began = time.perf_counter()
        passes = _TeacherPasses(self.inputs.device, self.hand_over)
        with ExitStack() as hooks, torch.no_grad():
            for training in active:
                block = training.task.block
                hooks.enter_context(self.taps.at(block, passes.hook_of(training)))
            if self.hand_over is not None:
                hooks.enter_context(self.hand_over.giving(self.teacher, passes.give))
            for number, indices in enumerate(self.stream.order(epoch)):
                left = [t for t in active if t.failure is None]
                if not left:
                    break
                batch = partial(self.inputs.training, self.stream, indices, epoch)
                passes.begin(batch, epoch, number)
                for training in left:
                    training.seconds += passes.data_seconds
                passes.run(self.teacher, len(left))
        for training in active:
            _failing_alone(training, training.end_epoch)
            if training.due:
                _failing_alone(training, partial(self._try, training))
        for training in active:
            training.shared_seconds += (time.perf_counter() - began) / len(active)
            self._close(training)

    def _try(self, training: BlockTraining) -> None:
        block, replacement = training.task.block, training.replacement
        training.judge(try_replacement(self.teacher, block, replacement, self.taps, self.inputs))

    def _close(self, training: BlockTraining) -> None:
        """Store a training that has ended; weights first: a record is never without them."""
        if training.stopped is not None:
            path = self.store.write_weights(training.task.key, training.best_state)
            self.store.write(training.result(path))
        if not training.open:
            self.store.drop_work(training.task.key)


class _Enough(Exception):  # noqa: N818 - no error: every block of the pass has been fed
    """Raised to end the teacher's pass behind the last block in training."""


@dataclass
class _TeacherPasses:
    """Passes of the teacher that train blocks where they end, timed apart from the blocks."""

    device: torch.device
    hand_over: HandOver | None = None
    data_seconds: float = 0.0
    """Seconds of making the current batch."""
    _at: tuple[int, int] = (0, 0)
    """Epoch and step of the epoch."""
    _batch: Inputs | None = None
    _received: Activations | None = None
    _ahead: float = 0.0
    """Seconds that another worker's part of the current pass took."""
    _began: float = 0.0
    _elsewhere: float = 0.0
    """Seconds of the current pass that were not the teacher's."""
    _left: int = 0
    """Blocks, and the next worker's place, that the current pass has still to reach."""

    def hook_of(self, training: BlockTraining) -> Callable[[Tensor, Tensor], None]:
        """Return the hook for the end of a training's block."""

        def train(given: Tensor, target: Tensor) -> None:
            if training.failure is not None:
                return
            now = self._now()
            training.teacher_seconds += self._teacher_until(now)
            _failing_alone(training, partial(training.step, given, target))
            took = self._now() - now
            training.seconds += took
            self._elsewhere += took
            self._count_down()

        return train

    def give(self, given: Tensor) -> None:
        """Hand the activations at the end of this worker's segment to the next worker."""
        assert self.hand_over is not None
        now = self._now()
        self.hand_over.give(
            *self._at, Activations(given, self.data_seconds, self._teacher_until(now))
        )
        self._elsewhere += self._now() - now
        self._count_down()

    def begin(self, make: Callable[[], Inputs], epoch: int, step: int) -> None:
        """Get what a step's pass begins from: its batch, or another worker's activations."""
        self._at = (epoch, step)
        self._received = self.hand_over.take(epoch, step) if self.hand_over is not None else None
        if self._received is not None:
            self.data_seconds = self._received.data_seconds
            self._ahead = self._received.teacher_seconds
            return
        began = self._now()
        self._batch = make()
        self.data_seconds, self._ahead = self._now() - began, 0.0

    def run(self, teacher: Student, count: int) -> None:
        """Run the step's pass, up to the last of `count` blocks and the next worker's place."""
        self._left = count + (self.hand_over is not None and self.hand_over.gives)
        self._elsewhere, self._began = 0.0, self._now()
        with suppress(_Enough):
            if self._received is not None and self.hand_over is not None:
                self.hand_over.go_on(teacher, self._received)
            else:
                teacher(self._batch)

    def _teacher_until(self, now: float) -> float:
        """Return the teacher's seconds in the current pass, as if all of it had run here."""
        return self._ahead + now - self._began - self._elsewhere

    def _count_down(self) -> None:
        self._left -= 1
        if not self._left:
            raise _Enough

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _failing_alone(training: BlockTraining, work: Callable[[], None]) -> None:
    """Do work of a block; an error ends that block and no other."""
    if training.failure is not None:
        return
    mark(training.task.key, "training a block", training.task.name)
    try:
        work()
    except (StorageError, OSError):
        raise
    except Exception as error:  # a replacement may raise anything
        training.failure = Failure(
            stage="train",
            reason=one_line(error),
            what=training.task.name,
            step=training.steps_done,
        )


def _share(training: BlockTraining) -> float:
    return training.epoch / training.train.epochs if training.open else 1.0
