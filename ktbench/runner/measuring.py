"""The third wave: every distinct graph of a plan on one device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ktbench.measure import Job, distinct, job_of, measure, measurement_id
from ktbench.measure.job import CHECKED_INPUTS
from ktbench.records import Artifact, Cell, DeviceSpec, Failure, Measurement, Plan, Result
from ktbench.results import ResultsFolder
from ktbench.runner.board_accuracy import on_board, with_accuracy
from ktbench.runner.teachers import dataset
from ktbench.runner.watch import Watcher
from ktbench.weights import load_student


def measure_all(
    plan: Plan, device: DeviceSpec, results: ResultsFolder, watcher: Watcher
) -> Iterator[Measurement | Failure]:
    """Measure what this device has not measured yet; a measurement is written before it is given.

    Latency belongs to the graph, so cells of one graph share a measurement; where the device asks
    for the noise check, each cell's own artifact is measured.
    """
    valid = {
        Path(m.samples).name.partition(".")[0] for m in results.measurements() if m.validity.valid
    }
    jobs = [
        job
        for job in distinct(_jobs(plan, results), device)
        if any(measurement_id(device, job, threads) not in valid for threads in device.threads)
    ]
    if not jobs:
        return
    repeats = len(jobs) * len(device.threads) * device.repeats
    watcher.begin(f"on {device.name}", repeats)

    def tell(number: int, _: int) -> None:
        watcher.advance(number, f"repeat {number} of {repeats}")

    try:
        with_inputs = [_with_inputs(plan, job, results) for job in jobs]
        accuracies = on_board(device, with_inputs, results, Path(plan.base))
        for outcome in measure(device, with_inputs, results.path, progress=tell):
            if isinstance(outcome, Measurement):
                outcome = with_accuracy(outcome, accuracies, with_inputs)
                results.write_measurement(outcome)
                for reason in outcome.validity.reasons:
                    watcher.note(f"invalid on {device.name}: {outcome.export.label}: {reason}")
            yield outcome
    finally:
        watcher.end()


def _jobs(plan: Plan, results: ResultsFolder) -> Iterator[Job]:
    for cell in plan.cells:
        result = results.result(cell.key)
        for artifact in result.artifacts if result is not None else ():
            if artifact.export in plan.exports:
                yield job_of(artifact, results.path)


def _with_inputs(plan: Plan, job: Job, results: ResultsFolder) -> Job:
    """The job with validation images and torch's logits, so that outputs are checked too."""
    result = results.result(job.cell_key)
    assert result is not None
    artifact = next(a for a in result.artifacts if a.digest == job.digest)
    images, expected = _reference(plan, result, artifact, results)
    return job_of(artifact, results.path, images, expected)


def _reference(
    plan: Plan, result: Result, artifact: Artifact, results: ResultsFolder
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    cell: Cell = result.cell
    assert result.checkpoint is not None
    base = Path(plan.base)
    data = dataset(cell.data, base)
    student = load_student(
        cell,
        results.path / result.checkpoint.path,
        num_classes=len(data.classes),
        in_channels=data.shape[0],
        base=base,
    )
    images = data.images("validation")[:CHECKED_INPUTS]
    with torch.inference_mode():
        expected = student(data.normalise(images))
    return images.numpy(), expected.numpy()
