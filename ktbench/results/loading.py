"""Reads a results folder or a packed one; damage costs only the cell that it hits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ktbench.records import KtbenchError, Measurement, Result
from ktbench.results.folder import ResultsFolder
from ktbench.results.frames import Results
from ktbench.results.lock import Lock, many_objects
from ktbench.results.problems import Problem
from ktbench.results.storage import Mark
from ktbench.results.unpacking import Unpacked, is_packed


def load_results(path: Path | str) -> Results:
    """Read the results of the matrix that a folder, or a packed one, was last run with.

    Results of cells and devices that the matrix no longer has stay on disk and are left out, and so
    is what cannot be believed (`Results.damaged`). Raises KtbenchError when it is no results folder
    or its lock is damaged or newer. A packed file is read from a temporary folder (`Results.path`),
    which goes with the results.
    """
    path = Path(path)
    if not is_packed(path):
        return _load(ResultsFolder(path), None)
    unpacked = Unpacked(path)
    with unpacked.named() as place:
        return _load(ResultsFolder(place), unpacked)


def _load(folder: ResultsFolder, unpacked: Unpacked | None) -> Results:
    damaged: dict[str, Problem] = {}
    marks: dict[str, Mark] = {}
    by_key = {}
    with many_objects():
        lock = folder.lock()
        for cell in lock.plan.cells:
            try:
                stored = folder.stored_of(cell)
            except KtbenchError as error:
                problem = Problem.of(error, folder.path, folder.cell(cell.key), cell.key)
                damaged[problem.path] = problem
                continue
            if stored is not None:
                by_key[cell.key] = stored.record
                marks.update(stored.files)
    measured = _measured(folder, lock, by_key, marks, damaged)
    try:
        failures = folder.failures()
    except KtbenchError as error:
        problem = Problem.of(error, folder.path, folder.path / "failures.json")
        damaged[problem.path], failures = problem, ()
    return Results(folder.path, lock, by_key, measured, failures, damaged, marks, unpacked)


def _measured(
    folder: ResultsFolder,
    lock: Lock,
    by_key: Mapping[str, Result],
    marks: dict[str, Mark],
    damaged: dict[str, Problem],
) -> tuple[Measurement, ...]:
    """Read the measurements of the matrix's graphs on its devices, and no others."""
    graphs = {a.graph_key for r in by_key.values() for a in r.artifacts}
    devices = {device.name for device in lock.plan.devices}
    measured = []
    for path in folder.measurement_files():
        try:
            stored = folder.measurement(path)
        except (KtbenchError, FileNotFoundError) as error:
            failure = error if isinstance(error, KtbenchError) else KtbenchError("is missing")
            problem = Problem.of(failure, folder.path, path)
            damaged[problem.path] = problem
            continue
        if stored.record.graph_key in graphs and stored.record.device.name in devices:
            measured.append(stored.record)
            marks.update(stored.files)
    return tuple(measured)
