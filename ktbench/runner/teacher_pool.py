"""Connects to a matrix's pool of teachers, starting it first where it has workers of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktbench.data import Stream
from ktbench.networks.outline import outline
from ktbench.records import KtbenchError
from ktbench.runner.trained_teacher import SourceRequest, TrainedTeacher
from ktbench.supervision import say
from ktbench.teacher.pool import cluster
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.messages import Identity, PoolJob, code_digest

if TYPE_CHECKING:
    from ktbench.teacher.pool.client import Pool


def pooled(teacher: TrainedTeacher, request: SourceRequest, stream: Stream) -> Pool:
    """Return a source whose answers to the batches of `stream` come from the pool's workers.

    Raises KtbenchError when Ray is missing or its cluster cannot be reached.
    """
    cluster.import_ray()
    from ktbench.teacher.pool.client import Pool  # which imports Ray

    spec, taught, data = request.spec, request.taught, stream.dataset
    weights = teacher.weights.read_bytes()
    trained_on = teacher.trained_on(request.base)
    job = PoolJob(
        teacher=teacher.teacher,
        data=data.spec,
        numeric=taught.numeric.model_copy(update={"outputs": None}),
        base=str(request.base.resolve()),
        identity=Identity(
            teacher=teacher.checkpoint.digest,
            data=data.digest,
            trained_on=trained_on.digest,
            code=code_digest(),
        ),
        layout=teacher.layout,
    )
    student = teacher.teacher.cell.student
    shapes = outline(student, trained_on.signature, str(request.base)).shapes
    if spec.address is None and not spec.workers and not cluster.connected():
        raise KtbenchError(
            "teacher: {source: pool} has neither workers of its own nor a cluster that others can "
            "join: give it `workers: 1`, or `address: auto` where `ray start` was run"
        )
    most = max(spec.workers, spec.most_workers)
    cluster.connect(spec.address, most * job.threads)
    return Pool(
        lambda: cluster.pool(job, weights, workers=spec.workers, most_workers=spec.most_workers),
        job,
        stream=stream,
        expected=Expected(shapes, trained_on.signature.predictions),
        epochs=taught.train.epochs,
        wait_seconds=spec.wait_seconds,
        label=taught.label,
        history=request.history,
        note=say,  # It cannot wait until the cohort is done: the training stands still.
    )


def close() -> None:
    """End what this process has started of a cluster, so that the machine is quiet again."""
    cluster.disconnect()
