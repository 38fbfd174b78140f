"""Quality on the board: an artifact's answers over a whole evaluation set, judged here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.devices._contract import AnswerError, DeviceError, Lease, Transport
from ktbench.measure.agent_schema import Evaluated, EvaluatedArtifact, Reduction
from ktbench.measure.job import Array, Arrays, Job
from ktbench.measure.retry import patiently
from ktbench.measure.target import Target, opened
from ktbench.records import DeviceSpec, ExportSpec, Failure, KtbenchError

Pieces = Callable[[], Iterator[Array | Arrays]]
"""Gives inputs piece by piece, from the beginning at every call."""
Answers = NDArray[Any]
"""Classes (N,), or outputs (N, K): k rows per input where it has k predictions."""


def share(classes: Answers, labels: Answers) -> float:
    """Return the share of inputs of which both say the same."""
    return float((classes == labels).mean())


@dataclass(frozen=True, slots=True)
class Judge:
    """Judge of the answers; by default of classes, by the share of the right ones."""

    score: Callable[[Answers, NDArray[Any]], float] = share
    """The metric of answers and labels."""
    agreement: Callable[[Answers, Answers], float] = share
    """Share of inputs of which two networks say the same, from their answers."""
    reduction: Reduction = "top1"
    """Answers that the device sends back: the top class of each input, or all outputs."""


JUDGE = Judge()


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
    inputs: Array | Arrays | Pieces,
    labels: NDArray[Any],
    expected: Sequence[Answers | None] | None = None,
    *,
    transport: Transport | None = None,
    lease: Lease | None = None,
    judge: Judge = JUDGE,
) -> Iterator[BoardAccuracy | Failure]:
    """Quality of artifacts of one format over inputs (N, ...) in their layout, labels (N, ...).

    Inputs that are too large to be held at once are given piece by piece.
    `expected` are the host's answers, one array per job. One result per job,
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
            pieces = inputs if callable(inputs) else lambda: iter([inputs])
            answers = _answers(target, jobs, pieces, judge.reduction)
    except (DeviceError, KtbenchError) as error:
        yield from (_failure(device, job, str(error)) for job in jobs)
        return
    for index, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
        reference = expected[index] if expected is not None else None
        if isinstance(answer, DeviceError):
            yield _failure(device, job, str(answer))
        else:
            yield _result(device, job, answer, (labels, reference), judge)


def _answers(
    target: Target, jobs: Sequence[Job], inputs: Pieces, reduction: Reduction
) -> list[Evaluated | DeviceError]:
    """One answer per job, each about that job's artifact alone; DeviceError for a lost device."""
    try:
        answered = [
            patiently(partial(target.evaluate, jobs, piece, reduction)) for piece in inputs()
        ]
    except AnswerError as error:
        if len(jobs) == 1:
            return [error]
        return [answer for job in jobs for answer in _answers(target, [job], inputs, reduction)]
    by_job = zip(*(each.artifacts for each in answered), strict=True)
    entries = (EvaluatedArtifact.joined(pieces) for pieces in by_job)
    return [answered[0].model_copy(update={"artifacts": [entry]}) for entry in entries]


def _failure(device: DeviceSpec, job: Job, reason: str) -> Failure:
    what = f"accuracy of {job.export.label} on {device.name}"
    return Failure(stage="measure", what=what, reason=reason)


def _result(
    device: DeviceSpec,
    job: Job,
    answer: Evaluated,
    references: tuple[NDArray[Any], Answers | None],
    judge: Judge,
) -> BoardAccuracy | Failure:
    labels, expected = references
    (entry,) = answer.artifacts
    try:
        answers = entry.answers(judge.reduction)
    except ValueError as error:
        return _failure(device, job, f"malformed outputs: {error}")
    if answers is None:
        what = "classes" if judge.reduction == "top1" else "outputs"
        return _failure(device, job, entry.error or f"the agent names no {what}")
    if len(answers) != len(labels):
        return _failure(device, job, f"{len(labels)} answers expected, {len(answers)} came back")
    if not np.isfinite(answers).all():
        return _failure(device, job, "outputs are not finite")
    return BoardAccuracy(
        device=device.name,
        cell_key=job.cell_key,
        export=job.export,
        artifact_digest=job.digest,
        runtime=answer.runtime,
        runtime_version=answer.runtime_version,
        provider=entry.provider,
        inputs=len(labels),
        accuracy=judge.score(answers, labels),
        agreement=None if expected is None else judge.agreement(answers, expected),
    )
