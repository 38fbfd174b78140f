"""The last waves: torch's reference outputs, then every distinct graph on each device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench import catalogue
from ktbench.devices._contract import Lease
from ktbench.engine.contract import Lost
from ktbench.export import LAYOUTS, in_pieces, raw_samples
from ktbench.measure import (
    BoardAccuracy,
    Job,
    Judge,
    distinct,
    evaluate,
    job_of,
    measure,
    measurement_id,
)
from ktbench.measure.job import CHECKED_INPUTS
from ktbench.measure.validity import int8_warnings
from ktbench.networks.weights import load_student
from ktbench.records import (
    ACCURACY,
    OWN_ERRORS,
    Cell,
    DeviceSpec,
    Failure,
    Format,
    Measurement,
    Metric,
    NumericSpec,
    Plan,
    Result,
    Validity,
    one_line,
)
from ktbench.results import ResultsFolder
from ktbench.runner.context import RunContext, clocked
from ktbench.runner.data_jobs import dataset
from ktbench.runner.narrowing import Narrowing, run_narrowing
from ktbench.runner.parallel_devices import measure_devices
from ktbench.runner.progress import Watcher
from ktbench.supervision import mark
from ktbench.tasks._contract import Task


@dataclass(frozen=True)
class ReferenceJob:
    """Run a trained student over the validation samples that its artifact is checked with."""

    digest: str
    """Digest of the artifact."""
    cell: Cell
    weights: Path
    base: Path
    format: Format
    """Format of the artifact, which decides the layout of maps."""

    @property
    def numeric(self) -> NumericSpec:
        """Numeric settings that the cell was trained with."""
        return self.cell.numeric

    @property
    def label(self) -> str:
        """Names what is being worked on."""
        return self.cell.label


Reference = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]
"""Raw validation samples by input, in the artifact's layout, and torch's logits."""
References = dict[str, Reference | Failure]
"""References and failures by the artifact's digest."""


def reference(job: ReferenceJob, _: Callable[[float], None]) -> Reference | Failure:
    """Return torch's answers; a failure is an outcome, not an exception."""
    mark(job.cell.key, "running the trained network", job.label)
    try:
        torch.set_num_threads(job.numeric.threads)
        data = dataset(job.cell.data, job.base)
        student = load_student(job.cell, job.weights, base=job.base, **data.dimensions)
        first = slice(CHECKED_INPUTS)
        samples = raw_samples(LAYOUTS[job.format], data, "validation", first)
        with torch.inference_mode():
            expected = student(data.some("validation", first))
    except OWN_ERRORS as error:  # a user's own network may raise anything
        return Failure(stage="measure", what=job.label, reason=one_line(error))
    return samples, expected.numpy()


def _reference_jobs(plan: Plan, results: ResultsFolder, root: Path) -> list[ReferenceJob]:
    """Return one job per artifact that some device has still to measure."""
    unmeasured_jobs: dict[str, Job] = {}
    for device in plan.devices:
        unmeasured_jobs.update({job.digest: job for job in _unmeasured_on(plan, device, results)})
    jobs = []
    for job in unmeasured_jobs.values():
        result = _result(results, job)
        assert result.checkpoint is not None
        weights = root / result.checkpoint.path
        jobs.append(
            ReferenceJob(job.digest, result.cell, weights, Path(plan.base), job.export.format)
        )
    return jobs


def unmeasured(plan: Plan, results: ResultsFolder) -> bool:
    """Return True where an artifact that is there has still to be measured."""
    return any(_unmeasured_on(plan, device, results) for device in plan.devices)


def _unmeasured_on(plan: Plan, device: DeviceSpec, results: ResultsFolder) -> list[Job]:
    names = {Path(m.samples).name.partition(".")[0]: m for m in results.measurements()}
    valid = {name for name, m in names.items() if m.validity.valid} - results.lost_measurements
    return [
        job
        for job in distinct(_jobs(plan, results), device)
        if any(measurement_id(device, job, threads) not in valid for threads in device.threads)
    ]


def reference_wave(context: RunContext) -> References:
    """Run torch on validation samples, for every graph that is to be measured."""
    jobs = _reference_jobs(context.plan, context.results, context.root)
    deaths = Narrowing()

    def again(job: ReferenceJob, lost: Lost) -> list[ReferenceJob]:
        return [job for _ in deaths.again([job.digest], lost)]

    references: References = {}
    for job, outcome in run_narrowing(context.engine, reference, jobs, lambda *_: None, again):
        if isinstance(outcome, Lost):
            outcome = Failure(stage="measure", reason=outcome.reason, what=job.label)
        references[job.digest] = outcome
    return references


def measurement_wave(context: RunContext, references: References) -> None:
    """Measure on every device what it has not measured yet."""

    def measure_on(device: DeviceSpec, watcher: Watcher) -> Iterator[Measurement | Failure]:
        return _measure_on(device, context, watcher, references)

    with clocked(context.summary, "measuring"):
        for outcome in measure_devices(context.plan.devices, measure_on, context.watcher):
            if isinstance(outcome, Failure):
                context.watcher.note(f"not measured: {outcome.what}: {outcome.reason}")
                context.summary.unmeasured.append(outcome)
            else:
                context.summary.measured += 1


def _measure_on(
    device: DeviceSpec, context: RunContext, watcher: Watcher, references: References
) -> Iterator[Measurement | Failure]:
    """Measure what this device has not measured yet; a measurement is written before it is given.

    Latency belongs to the graph, so cells of one graph share a measurement; where the device asks
    for the noise check, each cell's own artifact is measured.
    """
    plan, results = context.plan, context.results
    jobs, failed = [], []
    for job in _unmeasured_on(plan, device, results):
        answers = references[job.digest]
        if isinstance(answers, Failure):
            failed.append(answers)
        else:
            jobs.append(_with_inputs(job, answers, results))
    yield from failed
    if not jobs:
        return
    metric = results.lock().task.metric
    repeats = len(jobs) * len(device.threads) * device.repeats
    watcher.begin(f"on {device.name}", repeats)

    def tell(number: int, _: int) -> None:
        watcher.advance(number, f"repeat {number} of {repeats}")

    try:
        accuracies = on_board(device, jobs, results, context.base)
        for outcome in measure(device, jobs, results.path, progress=tell):
            if isinstance(outcome, Measurement):
                outcome = with_accuracy(outcome, accuracies, jobs, metric)
                results.write_measurement(outcome)
                for reason in outcome.validity.reasons:
                    watcher.note(f"invalid on {device.name}: {outcome.export.label}: {reason}")
                for warning in _arithmetic(outcome, jobs):
                    watcher.note(f"on {device.name}: {outcome.export.label}: {warning}")
            yield outcome
    finally:
        watcher.end()


def _arithmetic(measurement: Measurement, jobs: Sequence[Job]) -> Iterator[str]:
    """Yield what is to be said of the arithmetic that an int8 file ran in."""
    if measurement.kernels is not None:
        job = next(job for job in jobs if job.digest == measurement.artifact_digest)
        yield from int8_warnings(job, measurement.kernels)


def _jobs(plan: Plan, results: ResultsFolder) -> Iterator[Job]:
    for cell in plan.cells:
        result = results.result(cell.key)
        for artifact in result.artifacts if result is not None else ():
            if artifact.export in plan.exports:
                yield job_of(artifact, results.path)


def _with_inputs(job: Job, answers: Reference, results: ResultsFolder) -> Job:
    """Add validation samples and torch's logits to a job, so that outputs are checked too."""
    result = _result(results, job)
    artifacts = result.artifacts
    artifact = next(a for a in artifacts if a.digest == job.digest)
    return job_of(
        artifact, results.path, *answers, _agreement(catalogue.task(result.cell.data.task))
    )


# ---------------------------------------------------------------- accuracy on the board

TOGETHER = 16
"""Most artifacts that share a process on the board."""
BATCH = 256
SLACK = 3.0
"""Standard errors by which agreement on the test set may be below what the export promised."""

Accuracies = dict[str, BoardAccuracy | Failure]
"""Accuracies and failures by the artifact's digest."""


def on_board(
    device: DeviceSpec, jobs: Sequence[Job], results: ResultsFolder, base: Path
) -> Accuracies:
    """Evaluate each artifact on the test set on a board; nothing on this machine itself.

    Here the exporter has asked the same runtime the same questions already.
    """
    if catalogue.device(device.profile).transport != "ssh":
        return {}
    accuracies: Accuracies = {}
    for group in _groups(jobs):
        for outcome, job in zip(_evaluated(device, group, results, base), group, strict=True):
            accuracies[job.digest] = outcome
    return accuracies


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Give jobs of one format, as many at a time as share a process."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.export.format, []).append(job)
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


def _evaluated(
    device: DeviceSpec, jobs: Sequence[Job], results: ResultsFolder, base: Path
) -> Iterator[BoardAccuracy | Failure]:
    by_data: dict[str, list[Job]] = {}
    for job in jobs:
        by_data.setdefault(_result(results, job).cell.data.canonical, []).append(job)
    answers: Accuracies = {}
    for group in by_data.values():
        data = dataset(_result(results, group[0]).cell.data, base)
        answers_of = {c.key: torch_answers(c, results, base) for c in _cells(results, group)}
        outcomes = evaluate(
            device,
            group,
            partial(in_pieces, LAYOUTS[group[0].export.format], data, "test"),
            data.labels("test").numpy(),
            [answers_of[job.cell_key] for job in group],
            lease=Lease.of(results.path),
            judge=judge_of(data.task),
        )
        answers |= {job.digest: o for job, o in zip(group, outcomes, strict=True)}
    yield from (answers[job.digest] for job in jobs)


def judge_of(task: Task) -> Judge:
    """Return how a task judges a device's answers: classes where it reads no more of outputs."""

    def score(answers: NDArray[Any], labels: NDArray[Any]) -> float:
        given, right = torch.from_numpy(answers), torch.from_numpy(labels)
        return task.score(given if task.top_class else task.per_sample(given, right), right)

    def agreement(answers: NDArray[Any], expected: NDArray[Any]) -> float:
        if not task.top_class:
            return _agreement(task)(answers, expected)
        return task.agreement(torch.from_numpy(answers), torch.from_numpy(expected))

    return Judge(score, agreement, "top1" if task.top_class else "none")


def _agreement(task: Task) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    """Return the task's agreement of two arrays of outputs."""

    def agreement(outputs: NDArray[Any], expected: NDArray[Any]) -> float:
        sides = (torch.from_numpy(np.asarray(side, np.float32)) for side in (outputs, expected))
        return task.agreement(*map(task.predictions, sides))

    return agreement


def _result(results: ResultsFolder, job: Job) -> Result:
    result = results.result(job.cell_key)
    assert result is not None
    return result


def _cells(results: ResultsFolder, jobs: Sequence[Job]) -> list[Cell]:
    return list({job.cell_key: _result(results, job).cell for job in jobs}.values())


def torch_answers(cell: Cell, results: ResultsFolder, base: Path) -> NDArray[Any]:
    """Return what the trained student answers for the test set: classes (N,), or outputs (N, K)."""
    result = results.result(cell.key)
    assert result is not None and result.checkpoint is not None
    data = dataset(cell.data, base)
    weights = results.path / result.checkpoint.path
    student = load_student(cell, weights, base=base, **data.dimensions)
    reduced = data.task.predictions if data.task.top_class else Tensor.float
    with torch.inference_mode():
        answers = [
            reduced(student(data.some("test", slice(start, start + BATCH))))
            for start in range(0, data.size("test"), BATCH)
        ]
    return torch.cat(answers).numpy()


def with_accuracy(
    measurement: Measurement,
    accuracies: Mapping[str, BoardAccuracy | Failure],
    jobs: Sequence[Job],
    metric: Metric = ACCURACY,
) -> Measurement:
    """Add the artifact's accuracy on the board to a measurement; wrong answers make it invalid."""
    accuracy = accuracies.get(measurement.artifact_digest)
    if accuracy is None:
        return measurement
    validity = measurement.validity
    if isinstance(accuracy, Failure):
        warning = f"the test set could not be run on the board: {accuracy.reason}"
        warnings = (*validity.warnings, warning)
        return measurement.model_copy(
            update={"validity": validity.model_copy(update={"warnings": warnings})}
        )
    promised = next(j.tolerance.agreement for j in jobs if j.digest == accuracy.artifact_digest)
    reason = wrong(accuracy, promised, metric)
    if reason:
        validity = Validity(reasons=(*validity.reasons, reason), warnings=validity.warnings)
    return measurement.model_copy(
        update={
            "test_accuracy": accuracy.accuracy,
            "test_agreement": accuracy.agreement,
            "test_inputs": accuracy.inputs,
            "validity": validity,
        }
    )


def wrong(accuracy: BoardAccuracy, promised: float, metric: Metric = ACCURACY) -> str | None:
    """Return the reason why a board's answers are not the trained network's, or None.

    `promised` is the least agreement with torch that the export was held to, on other samples: by
    chance it may be missed here by a few standard errors of a share, and by one sample.
    """
    agreement, inputs = accuracy.agreement, accuracy.inputs
    if agreement is None:
        return None
    chance = SLACK * math.sqrt(promised * (1 - promised) / inputs) + 1 / inputs
    if agreement >= promised - chance:
        return None
    return (
        f"the board agrees with torch on only {agreement:.1%} of {inputs} test samples"
        f" ({metric.word} there {metric.written(accuracy.accuracy).replace(' %', '%')})"
    )
