"""Reads a results folder; what cannot be believed costs its own cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ktbench.records import KtbenchError, Measurement, Result
from ktbench.results.folder import ResultsFolder
from ktbench.results.frames import Results
from ktbench.results.lock import Lock, many_objects
from ktbench.results.problems import Problem
from ktbench.results.storage import Mark


def load_results(path: Path | str) -> Results:
    """The results of the matrix that a folder was last run with.

    Results of cells and devices that the matrix no longer has stay on disk and are left out, and so
    is what cannot be believed (`Results.damaged`). Raises KtbenchError when it is no results folder
    or its lock is damaged or newer.
    """
    folder = ResultsFolder(Path(path))
    damaged: dict[str, Problem] = {}
    marks: dict[str, Mark] = {}
    by_key = {}
    with many_objects():
        lock = folder.lock()
        for cell in lock.plan.cells:
            try:
                found = folder.stored_of(cell)
            except KtbenchError as error:
                problem = Problem.of(error, folder.path, folder.cell(cell.key), cell.key)
                damaged[problem.path] = problem
                continue
            if found is not None:
                by_key[cell.key] = found.record
                marks.update(found.files)
    measured = _measured(folder, lock, by_key, marks, damaged)
    try:
        failures = folder.failures()
    except KtbenchError as error:
        problem = Problem.of(error, folder.path, folder.path / "failures.json")
        damaged[problem.path], failures = problem, ()
    return Results(folder.path, lock, by_key, measured, failures, damaged, marks)


def _measured(
    folder: ResultsFolder,
    lock: Lock,
    by_key: Mapping[str, Result],
    marks: dict[str, Mark],
    damaged: dict[str, Problem],
) -> tuple[Measurement, ...]:
    """Measurements of the matrix's graphs on its devices; others are left out."""
    graphs = {a.graph_key for r in by_key.values() for a in r.artifacts}
    devices = {device.name for device in lock.plan.devices}
    measured = []
    for path in folder.measurement_files():
        try:
            found = folder.measurement(path)
        except (KtbenchError, FileNotFoundError) as error:
            told = error if isinstance(error, KtbenchError) else KtbenchError("is missing")
            problem = Problem.of(told, folder.path, path)
            damaged[problem.path] = problem
            continue
        if found.record.graph_key in graphs and found.record.device.name in devices:
            measured.append(found.record)
            marks.update(found.files)
    return tuple(measured)
