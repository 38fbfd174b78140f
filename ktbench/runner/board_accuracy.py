"""The test set on the board itself: a wrong answer makes a fast one worthless."""

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
from ktbench.runner.teacher_jobs import dataset

TOGETHER = 16
"""Artifacts that share a process on the board."""
BATCH = 256
SLACK = 3.0
"""Standard errors by which agreement on the test set may be below what the export promised."""

Found = dict[str, BoardAccuracy | Failure]
"""By the artifact's digest."""


def on_board(device: DeviceSpec, jobs: Sequence[Job], results: ResultsFolder, base: Path) -> Found:
    """What each artifact answers to the test set on a board; nothing on this machine itself.

    Here the exporter has asked the same runtime the same questions already.
    """
    if catalogue.device(device.profile).transport != "ssh":
        return {}
    found: Found = {}
    for group in _groups(jobs):
        for outcome, job in zip(_evaluated(device, group, results, base), group, strict=True):
            found[job.digest] = outcome
    return found


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs of one format and one data set, so many at a time as share a process."""
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
    answers: dict[str, BoardAccuracy | Failure] = {}
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
        answers.update({job.digest: found for job, found in zip(group, outcomes, strict=True)})
    yield from (answers[job.digest] for job in jobs)


def _result(results: ResultsFolder, job: Job) -> Result:
    found = results.result(job.cell_key)
    assert found is not None
    return found


def _cells(results: ResultsFolder, jobs: Sequence[Job]) -> list[Cell]:
    return list({job.cell_key: _result(results, job).cell for job in jobs}.values())


def torch_classes(cell: Cell, results: ResultsFolder, base: Path) -> NDArray[np.int64]:
    """The class that the trained student names for each test image, (N,)."""
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
    measurement: Measurement, found: Mapping[str, BoardAccuracy | Failure], jobs: Sequence[Job]
) -> Measurement:
    """The measurement with its artifact's answers on the board; wrong ones make it invalid."""
    came = found.get(measurement.artifact_digest)
    if came is None:
        return measurement
    validity = measurement.validity
    if isinstance(came, Failure):
        warning = f"the test set could not be run on the board: {came.reason}"
        warnings = (*validity.warnings, warning)
        return measurement.model_copy(
            update={"validity": validity.model_copy(update={"warnings": warnings})}
        )
    promised = next(j.tolerance.agreement for j in jobs if j.digest == came.artifact_digest)
    reason = wrong(came, promised)
    if reason:
        validity = Validity(reasons=(*validity.reasons, reason), warnings=validity.warnings)
    return measurement.model_copy(
        update={
            "test_accuracy": came.accuracy,
            "test_agreement": came.agreement,
            "test_inputs": came.inputs,
            "validity": validity,
        }
    )


def wrong(came: BoardAccuracy, promised: float) -> str | None:
    """Why a board's answers are not those of the network that was trained, or None.

    `promised` is the least agreement with torch that the export was held to, on other images: by
    chance it may be missed here by a few standard errors of a share, and by one image.
    """
    if came.agreement is None:
        return None
    chance = SLACK * math.sqrt(promised * (1 - promised) / came.inputs) + 1 / came.inputs
    if came.agreement >= promised - chance:
        return None
    return (
        f"the board names torch's class for only {came.agreement:.1%} of {came.inputs} test images"
        f" (accuracy there {came.accuracy:.1%})"
    )
