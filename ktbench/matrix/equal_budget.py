"""Length of a control's training: what blocks and finish cost together, spent on random weights.

A student made of a teacher's blocks has cost the training of its blocks before it is finished. Its
control is the same network from random weights, trained for as long as both together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ktbench.data import DataInfo
from ktbench.matrix.models import Measure
from ktbench.networks.outline import forward_flops, replaced_flops
from ktbench.records import BlockTrain, Cell, Ensemble, Item, Start, TrainSpec


@dataclass(frozen=True)
class EqualBudget:
    """Counts epochs in one measure; a backward pass counts as two forward ones."""

    measure: Measure
    base: str

    def epochs(self, control: Cell, start: Start, info: DataInfo) -> int:
        """Return the epochs of a control whose `train` is that of the finish, rounded up.

        `start` is the one of the student that it controls. Blocks are counted with all of their
        epochs and with one pass of the teacher, which is the least that feeds them.
        """
        blocks = _images(start.train, info)
        if self.measure == "flops":
            blocks *= self._per_block_image(control.student, start, info)
            blocks /= self._per_image(control, info)
        per_epoch = _images(control.train, info) / control.train.epochs
        return control.train.epochs + math.ceil(blocks / per_epoch - 1e-9)

    def _per_image(self, cell: Cell, info: DataInfo) -> float:
        """Count the FLOPs of a training image, the teachers' passes included."""
        teachers = [self._forward(teacher.cell.student, info) for teacher in cell.teachers]
        share = 1.0 if cell.distill is None else cell.distill.end - cell.distill.start
        drawn = cell.teacher.sample if isinstance(cell.teacher, Ensemble) else 1
        taught = share * drawn * sum(teachers) / max(1, len(teachers))
        return 3 * self._forward(cell.student, info) + taught

    def _per_block_image(self, student: Item, start: Start, info: DataInfo) -> float:
        """Count the FLOPs of an image of which all replacements learn."""
        replaced = replaced_flops(student, info.signature, self.base)
        return 3 * replaced + self._forward(start.teacher.cell.student, info)

    def _forward(self, network: Item, info: DataInfo) -> int:
        return forward_flops(network, info.signature, self.base)


def _images(train: TrainSpec | BlockTrain, info: DataInfo) -> float:
    """Count training images over all epochs, which have only full batches."""
    size, batch = info.train_size, train.batch_size
    return float(train.epochs * (size // batch * batch if size >= batch else size))
