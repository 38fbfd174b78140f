"""Accuracy on the board: an artifact's classes over a whole evaluation set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktbench.devices._contract import AnswerError, DeviceError, Lease, Transport
from ktbench.measure.agent_schema import Evaluated
from ktbench.measure.job import Array, Arrays, Job
from ktbench.measure.retry import patiently
from ktbench.measure.target import Target, opened
from ktbench.records import DeviceSpec, ExportSpec, Failure, KtbenchError

Classes = NDArray[np.integer]
Score = Callable[[Classes, Classes], float]
"""A metric of the classes that are named, and the labels."""


def share(classes: Classes, labels: Classes) -> float:
    """Return the share of inputs of which both say the same."""
    return float((classes == labels).mean())


@dataclass(frozen=True, slots=True)
class BoardAccuracy:
    """An artifact's accuracy on a device, and its agreement with the host."""

    device: str
    cell_key: str
    export: ExportSpec
    artifact_digest: str
    runtime: str
    runtime_version: str
    provider: str
    inputs: int
    accuracy: float
    agreement: float | None


def evaluate(
    device: DeviceSpec,
    jobs: Sequence[Job],
    inputs: Array | Arrays,
    labels: NDArray[np.integer],
    expected: Sequence[NDArray[np.integer] | None] | None = None,
    *,
    transport: Transport | None = None,
    lease: Lease | None = None,
    score: Score = share,
) -> Iterator[BoardAccuracy | Failure]:
    """Quality of artifacts of one format over inputs (N, ...) in their layout, labels (N,).

    `score` is the metric of what is said and the labels; the share of right classes when not
    given. `expected` are classes (N,) that the host names, one array per job. One result per job,
    in their order; all artifacts of a call share one process on the device, as nothing is timed,
    unless that ends without an answer: then each has a process of its own.
    """
    if len({job.export.format for job in jobs}) > 1:
        raise KtbenchError("evaluate takes artifacts of one format at a time")
    if not jobs:
        return
    try:
        with opened(device, transport, lease) as target:
            target.look()  # a board that was never there is not waited for
            answers = _answers(target, jobs, inputs)
    except (DeviceError, KtbenchError) as error:
        yield from (_failure(device, job, str(error)) for job in jobs)
        return
    for index, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
        reference = expected[index] if expected is not None else None
        if isinstance(answer, DeviceError):
            yield _failure(device, job, str(answer))
        else:
            yield _result(device, job, answer, (labels, reference), score)


def _answers(
    target: Target, jobs: Sequence[Job], inputs: Array | Arrays
) -> list[Evaluated | DeviceError]:
    """One answer per job, each about that job's artifact alone; DeviceError for a lost device."""
    try:
        whole = patiently(lambda: target.evaluate(jobs, inputs))
    except AnswerError as error:
        if len(jobs) == 1:
            return [error]
        return [answer for job in jobs for answer in _answers(target, [job], inputs)]
    return [whole.model_copy(update={"artifacts": [entry]}) for entry in whole.artifacts]


def _failure(device: DeviceSpec, job: Job, reason: str) -> Failure:
    what = f"accuracy of {job.export.label} on {device.name}"
    return Failure(stage="measure", what=what, reason=reason)


def _result(
    device: DeviceSpec,
    job: Job,
    answer: Evaluated,
    references: tuple[NDArray[np.integer], NDArray[np.integer] | None],
    score: Score,
) -> BoardAccuracy | Failure:
    labels, expected = references
    (entry,) = answer.artifacts
    if entry.top1 is None:
        return _failure(device, job, entry.error or "the agent names no classes")
    classes = np.asarray(entry.top1)
    if classes.shape != labels.shape:
        return _failure(device, job, f"{len(labels)} classes expected, {len(classes)} came back")
    return BoardAccuracy(
        device=device.name,
        cell_key=job.cell_key,
        export=job.export,
        artifact_digest=job.digest,
        runtime=answer.runtime,
        runtime_version=answer.runtime_version,
        provider=entry.provider,
        inputs=len(labels),
        accuracy=score(classes, labels),
        agreement=None if expected is None else share(classes, expected),
    )
