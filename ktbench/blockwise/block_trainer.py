"""Training blocks: what a pass of the teacher shows at a block is trained on and dropped at once.

`relay`: one pass feeds every block, each trained inside the pass, where it ends. `prefix`: every
block has its own passes, one block after the other, as in Blakeney et al. (arXiv 2012.03096). A
pass ends behind the last block that it feeds. The blocks are the same, bit for bit.
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
from ktbench.blockwise.blocks import BlockStore, BlockTask, packed
from ktbench.blockwise.pipeline import Handed, Hands, Place
from ktbench.blockwise.splice import attempt
from ktbench.blockwise.taps import Taps
from ktbench.blockwise.teacher_inputs import Inputs
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
from ktbench.students._contract import Student
from ktbench.supervision import mark
from ktbench.system.files import write_atomically

Feed = Literal["relay", "prefix"]
Note = Callable[[str], None]
INTERVAL_S = 20.0
"""Time between two checkpoints, where nothing else is said."""


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
    place: Place | None = None,
) -> list[BlockResult | Failure]:
    """Train blocks of a teacher that learnt from `trained_on`; one result per task, in order.

    A block's weights do not depend on the others, on the feed, or on where a run was stopped:
    those that the store holds are not trained again, unfinished ones go on from their checkpoints,
    which are written every `checkpoint_seconds` at the end of an epoch (0: of every epoch). A block
    that fails, or diverges before its first try, is a Failure; the others go on. In a `relay`,
    `place` is this worker's in a chain of several that share one pass of the teacher.
    """
    device = prepare(numeric)
    teacher.requires_grad_(False).eval().to(device)
    before = weights_digest(teacher.state_dict())
    missing = [task for task in tasks if store.find(task.key) is None]
    failures: dict[str, Failure] = {}
    packs = [missing] if feed == "relay" else [[task] for task in missing]
    for number, pack in enumerate(pack for pack in packs if pack):

        def tell(share: float, done: int = number) -> None:
            report((done + share) / len(packs))

        hands = Hands(place) if place is not None and feed == "relay" else None
        inputs = Inputs(dataset, trained_on or dataset, device, frozen(numeric))
        room = _Room(teacher, inputs, store, seed, numeric, hands)
        try:
            failures |= room.train(pack, spec, tell, note, checkpoint_seconds)
        finally:
            if hands is not None:
                hands.end()
    if weights_digest(teacher.state_dict()) != before:
        raise KtbenchError("the teacher's weights or buffers changed while its blocks were trained")
    return [failures.get(task.key) or _found(store, task) for task in tasks]


def _found(store: BlockStore, task: BlockTask) -> BlockResult:
    result = store.find(task.key)
    if result is None:
        raise KtbenchError(f"{store.folder}: the block {task.name} has gone: run again")
    return result


@dataclass
class _Room:
    """What the trainings of a pack share."""

    teacher: Student
    inputs: Inputs
    store: BlockStore
    seed: int
    numeric: NumericSpec
    hands: Hands | None = None

    def train(
        self,
        tasks: Sequence[BlockTask],
        spec: BlockTrain,
        report: Callable[[float], None],
        note: Note,
        interval: float,
    ) -> dict[str, Failure]:
        """Train a pack, each block's result into the store; the failures by key."""
        self.stream = Stream(self.inputs.dataset, self.seed, spec.batch_size)
        blocks = [task.block for task in tasks]
        self.taps = Taps(self.teacher, blocks, self.inputs.few())
        opened = [self._open(task, spec, note) for task in tasks]
        trainings = [one for one in opened if isinstance(one, BlockTraining)]
        saved = time.monotonic()
        for epoch in range(min((t.epoch for t in trainings), default=0), spec.epochs):
            active = [t for t in trainings if t.open and t.epoch == epoch]
            if active:
                self._epoch(active, epoch)
            if time.monotonic() - saved >= interval:
                for training in active:
                    if training.open:
                        path = self.store.work(training.task.key)
                        write_atomically(path, packed(training.state()))
                saved = time.monotonic()
            report(sum(_share(t) for t in trainings) / len(trainings))
        ended = (t if isinstance(t, Failure) else t.failure for t in opened)
        pairs = zip(tasks, ended, strict=True)
        return {task.key: failure for task, failure in pairs if failure is not None}

    def _open(self, task: BlockTask, spec: BlockTrain, note: Note) -> BlockTraining | Failure:
        """A training at its start or at its last checkpoint."""

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
                except Exception as error:  # only saved work: training anew gives the same
                    note(f"trains from the start: block {task.name}: {one_line(error)}")
                    training = build()
        except (StorageError, OSError):
            raise
        except Exception as error:  # a replacement may raise anything
            return Failure(stage="train", reason=one_line(error), what=task.name, step=0)
        return training

    # ------------------------------------------------------------ an epoch

    def _epoch(self, active: Sequence[BlockTraining], epoch: int) -> None:
        """One pass over the training images, and the tries that are due; done ones are kept."""
        began = time.perf_counter()
        feeding = _Feeding(self.inputs.device, self.hands)
        with ExitStack() as taps, torch.no_grad():
            for training in active:
                block = training.task.block
                taps.enter_context(self.taps.at(block, feeding.to(training)))
            if self.hands is not None:
                taps.enter_context(self.hands.giving(self.teacher, feeding.give))
            for number, indices in enumerate(self.stream.order(epoch)):
                left = [t for t in active if t.failure is None]
                if not left:
                    break
                batch = partial(self.inputs.training, self.stream, indices, epoch)
                feeding.begin(batch, epoch, number)
                for training in left:
                    training.seconds += feeding.last
                feeding.run(self.teacher, len(left))
        for training in active:
            _failing_alone(training, training.end_epoch)
            if training.due:
                _failing_alone(training, partial(self._try, training))
        for training in active:
            training.shared_seconds += (time.perf_counter() - began) / len(active)
            self._close(training)

    def _try(self, training: BlockTraining) -> None:
        block, replacement = training.task.block, training.replacement
        training.judge(attempt(self.teacher, block, replacement, self.taps, self.inputs))

    def _close(self, training: BlockTraining) -> None:
        """Keep what has ended: weights first, so that a record is never without them."""
        if training.stopped is not None:
            path = self.store.write_weights(training.task.key, training.best_state)
            self.store.write(training.result(path))
        if not training.open:
            self.store.drop_work(training.task.key)


class _Enough(Exception):  # noqa: N818 - no error: every block of the pass has been fed
    """Ends the teacher's pass behind the last block in training."""


@dataclass
class _Feeding:
    """Passes of the teacher that train blocks where they end, and the time of either."""

    device: torch.device
    hands: Hands | None = None
    last: float = 0.0
    """Seconds of making the batch."""
    _at: tuple[int, int] = (0, 0)
    """Epoch, and step of the epoch."""
    _batch: Tensor | None = None
    _handed: Handed | None = None
    _ahead: float = 0.0
    """Seconds that another worker's part of the current pass took."""
    _began: float = 0.0
    _elsewhere: float = 0.0
    """Seconds of the current pass that were not the teacher's."""
    _left: int = 0

    def to(self, training: BlockTraining) -> Callable[[Tensor, Tensor], None]:
        """What to call at the end of a training's block."""

        def feed(given: Tensor, target: Tensor) -> None:
            if training.failure is not None:
                return
            now = self._now()
            training.teacher_seconds += self._teacher_until(now)
            _failing_alone(training, partial(training.step, given, target))
            took = self._now() - now
            training.seconds += took
            self._elsewhere += took
            self._one_less()

        return feed

    def give(self, given: Tensor) -> None:
        """What to call at the place where the next worker goes on."""
        assert self.hands is not None
        now = self._now()
        self.hands.give(*self._at, Handed(given, self.last, self._teacher_until(now)))
        self._elsewhere += self._now() - now
        self._one_less()

    def begin(self, make: Callable[[], Tensor], epoch: int, step: int) -> None:
        """Get what the step's pass begins from: its batch, or what another worker hands on."""
        self._at = (epoch, step)
        self._handed = self.hands.take(epoch, step) if self.hands is not None else None
        if self._handed is not None:
            self.last, self._ahead = self._handed.data_seconds, self._handed.teacher_seconds
            return
        began = self._now()
        self._batch = make()
        self.last, self._ahead = self._now() - began, 0.0

    def run(self, teacher: Student, count: int) -> None:
        """The step's pass, as far as the last of so many blocks and the next worker's place."""
        self._left = count + (self.hands is not None and self.hands.gives)
        self._elsewhere, self._began = 0.0, self._now()
        with suppress(_Enough):
            if self._handed is not None and self.hands is not None:
                self.hands.go_on(teacher, self._handed)
            else:
                teacher(self._batch)

    def _teacher_until(self, now: float) -> float:
        """Seconds of the teacher in the current pass, as if it had run here from its input."""
        return self._ahead + now - self._began - self._elsewhere

    def _one_less(self) -> None:
        self._left -= 1
        if not self._left:
            raise _Enough

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _failing_alone(training: BlockTraining, work: Callable[[], None]) -> None:
    """What goes wrong with a block ends that block and no other."""
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
