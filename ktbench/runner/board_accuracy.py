"""Accuracy on the test set, measured on the board: a wrong answer makes a fast one worthless."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ktbench import catalogue
from ktbench.devices._contract import Lease
from ktbench.measure import BoardAccuracy, Job, evaluate
from ktbench.networks.weights import load_student
from ktbench.records import Cell, DeviceSpec, Failure, Measurement, Result, Validity
from ktbench.results import ResultsFolder
from ktbench.runner.data_jobs import dataset

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
        images = data.images("test").numpy()
        if group[0].export.format == "tflite":
            images = images.transpose(0, 2, 3, 1)
        classes = {cell.key: torch_classes(cell, results, base) for cell in _cells(results, group)}
        outcomes = evaluate(
            device,
            group,
            images,
            data.labels("test").numpy(),
            [classes[job.cell_key] for job in group],
            lease=Lease.of(results.path),
        )
        answers |= {job.digest: o for job, o in zip(group, outcomes, strict=True)}
    yield from (answers[job.digest] for job in jobs)


def _result(results: ResultsFolder, job: Job) -> Result:
    result = results.result(job.cell_key)
    assert result is not None
    return result


def _cells(results: ResultsFolder, jobs: Sequence[Job]) -> list[Cell]:
    return list({job.cell_key: _result(results, job).cell for job in jobs}.values())


def torch_classes(cell: Cell, results: ResultsFolder, base: Path) -> NDArray[np.int64]:
    """Return the class that the trained student predicts for each test image, (N,)."""
    result = results.result(cell.key)
    assert result is not None and result.checkpoint is not None
    data = dataset(cell.data, base)
    student = load_student(
        cell,
        results.path / result.checkpoint.path,
        num_classes=len(data.classes),
        in_channels=data.shape[0],
        base=base,
    )
    images = data.images("test")
    with torch.inference_mode():
        parts = [
            student(data.normalise(images[start : start + BATCH])).argmax(1)
            for start in range(0, len(images), BATCH)
        ]
    return torch.cat(parts).numpy()


def with_accuracy(
    measurement: Measurement,
    accuracies: Mapping[str, BoardAccuracy | Failure],
    jobs: Sequence[Job],
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
    reason = wrong(accuracy, promised)
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


def wrong(accuracy: BoardAccuracy, promised: float) -> str | None:
    """Return the reason why a board's answers are not the trained network's, or None.

    `promised` is the least agreement with torch that the export was held to, on other images: by
    chance it may be missed here by a few standard errors of a share, and by one image.
    """
    agreement, inputs = accuracy.agreement, accuracy.inputs
    if agreement is None:
        return None
    chance = SLACK * math.sqrt(promised * (1 - promised) / inputs) + 1 / inputs
    if agreement >= promised - chance:
        return None
    return (
        f"the board names torch's class for only {agreement:.1%} of {inputs} test images"
        f" (accuracy there {accuracy.accuracy:.1%})"
    )
