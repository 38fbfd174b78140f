"""A training on a pool in a process of its own.

`python -m tests.support.apart FOLDER ADDRESS POOL WORKERS` prints a line per epoch, and at its end
the digest of the student's weights.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import ktbench.teacher.pool.cluster as cluster
from ktbench.records import Cell, Checkpoint
from ktbench.train import Progress, TrainingContext, train_cohort
from tests.support.pools import Started, job
from tests.support.training import HERE, cell, digits, places_in


def taught(epochs: int = 40) -> Cell:
    """Return the cell that is trained here and, by the test, under a live teacher."""
    usual = cell("kd")
    return cell("kd", train=usual.train.model_copy(update={"epochs": epochs, "batch_size": 16}))


class Named(Started):
    """A pool under a name that several processes know."""

    def __init__(self, root: Path, workers: int, name: str) -> None:
        made, self.weights = job(root)
        self.job = replace(made, teacher=made.teacher.model_copy(update={"name": name}))
        self.settings = {"workers": workers}
        self.notes = []
        self.handles = []
        self.coordinator = self.connect()


def main(folder: Path, address: str, name: str, workers: int) -> None:
    """Train, and continue from saved work if the folder holds any."""
    cluster.connect(address)
    source = Named(folder, workers, name).source(taught())

    def report(progress: Progress) -> None:
        print("epoch", progress.done, flush=True)

    [made] = train_cohort(
        [taught()],
        TrainingContext(
            dataset=digits(),
            teacher=source,
            places=places_in(folder),
            base=HERE,
            report=report,
            note=lambda text: print("note", text, flush=True),
            checkpoint_seconds=0.0,
        ),
    )
    source.close()
    print("digest", made.digest if isinstance(made, Checkpoint) else made, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
