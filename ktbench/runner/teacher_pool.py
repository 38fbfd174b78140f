"""A pool of teachers as a matrix asks for it: connected, started, and known by what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ktbench.data import Dataset, Stream
from ktbench.networks.layout import Layout
from ktbench.networks.outline import outline
from ktbench.records import Cell, Checkpoint, KtbenchError, SourceSpec, Teacher
from ktbench.supervision import say
from ktbench.teacher.pool import cluster
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.messages import Identity, PoolJob, code_digest

if TYPE_CHECKING:
    from ktbench.teacher.pool.client import Pool


def pooled(
    teacher: Teacher,
    checkpoint: Checkpoint,
    weights: bytes,
    *,
    taught: Cell,
    stream: Stream,
    trained_on: Dataset,
    base: Path,
    wanted: SourceSpec,
    history: Path | None,
    layout: Layout | None = None,
) -> Pool:
    """The source for `taught` whose answers come from workers; `weights` is the teacher's file.

    Raises KtbenchError when Ray is missing or its cluster cannot be reached.
    """
    cluster.import_ray()
    from ktbench.teacher.pool.client import Pool  # which imports Ray

    job = PoolJob(
        teacher=teacher,
        data=stream.dataset.spec,
        numeric=taught.numeric.model_copy(update={"outputs": None}),
        base=str(base.resolve()),
        identity=Identity(
            teacher=checkpoint.digest,
            data=stream.dataset.digest,
            trained_on=trained_on.digest,
            code=code_digest(),
        ),
        layout=layout,
    )
    shapes = outline(
        teacher.cell.student, len(trained_on.classes), stream.dataset.shape, str(base)
    ).shapes
    if wanted.address is None and not wanted.workers and not cluster.connected():
        raise KtbenchError(
            "teacher: {source: pool} has neither workers of its own nor a cluster that others can "
            "join: give it `workers: 1`, or `address: auto` where `ray start` was run"
        )
    most = max(wanted.workers, wanted.most_workers)
    cluster.connect(wanted.address, most * job.threads)
    return Pool(
        lambda: cluster.pool(
            job, weights, workers=wanted.workers, most_workers=wanted.most_workers
        ),
        job,
        stream=stream,
        expected=Expected(shapes),
        epochs=taught.train.epochs,
        wait_seconds=wanted.wait_seconds,
        label=taught.label,
        history=history,
        note=say,  # It cannot wait until the cohort is done: the training stands still.
    )


def close() -> None:
    """End what this process has started of a cluster, so that the machine is quiet again."""
    cluster.disconnect()
