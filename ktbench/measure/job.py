"""The job of measuring an artifact, with its inputs and expected outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ktbench.records import Artifact, DeviceSpec, ExportSpec, Tolerance, digest_of

CHECKED_INPUTS = 16
"""Number of inputs that timed runs take in turn, and whose outputs are checked."""

LENIENT = Tolerance(agreement=0.98, difference=None)
"""Tolerance of a job that names none."""

Agreement = Callable[[NDArray[Any], NDArray[Any]], float]


def same_top_class(outputs: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the share of rows (N, K) whose largest output is the same."""
    return float((outputs.argmax(axis=1) == expected.argmax(axis=1)).mean())


Array = NDArray[np.generic]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to measure.

    `inputs` are raw inputs in the artifact's own layout, maps (N, C, H, W) for ONNX and
    (N, H, W, C) for TFLite, of any number type: one array, or several by name. None takes random
    ones. `expected` are logits (N, K) of a
    trusted run on the same inputs; None compares the device with itself alone.
    """

    path: Path
    export: ExportSpec
    graph_key: str
    cell_key: str
    digest: str
    inputs: Array | Arrays | None = None
    expected: NDArray[np.floating] | None = None
    tolerance: Tolerance = LENIENT
    agreement: Agreement = same_top_class
    """Share of samples of which two arrays of outputs say the same."""
    quantised: int | None = None
    """Layers that the file holds as integers; None where that is not known."""


def job_of(
    artifact: Artifact,
    folder: Path,
    inputs: Array | Arrays | None = None,
    expected: NDArray[np.floating] | None = None,
    agreement: Agreement = same_top_class,
) -> Job:
    """Return the job of an artifact in a results folder; raw inputs are in its own layout."""
    return Job(
        path=folder / artifact.path,
        export=artifact.export,
        graph_key=artifact.graph_key,
        cell_key=artifact.cell_key,
        digest=artifact.digest,
        inputs=None if inputs is None else first_of(inputs),
        expected=None if expected is None else expected[:CHECKED_INPUTS],
        tolerance=artifact.tolerance,
        agreement=agreement,
        quantised=None if artifact.layers is None else artifact.layers.quantised,
    )


def first_of(inputs: Array | Arrays) -> Array | Arrays:
    """Return the inputs that a timed run takes: the first few."""
    if isinstance(inputs, dict):
        return {name: array[:CHECKED_INPUTS] for name, array in inputs.items()}
    return inputs[:CHECKED_INPUTS]


def distinct(jobs: Iterable[Job], device: DeviceSpec) -> list[Job]:
    """Return the first job of each graph; all jobs if the device asks for the noise check."""
    if device.noise_check:
        return list(jobs)
    by_graph: dict[tuple[str, str], Job] = {}
    for job in jobs:
        by_graph.setdefault((job.graph_key, job.export.label), job)
    return list(by_graph.values())


def measurement_id(device: DeviceSpec, job: Job, threads: int) -> str:
    """Return a name that is equal for whatever would be measured the same way.

    A graph's cells share one, unless the device asks for the noise check.
    """
    spec = json.loads(device.canonical)  # fields of later versions are silent at their default
    spec.pop("threads")
    export = job.export.file_settings()
    cell = job.cell_key if device.noise_check else None
    return digest_of([spec, threads, job.graph_key, export, cell])
