"""Verifies a results folder: each record and file against what was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from ktbench.records import (
    Assembly,
    BlockResult,
    BlockSearch,
    Cell,
    KtbenchError,
    Measurement,
    Provenance,
    Record,
    Result,
)
from ktbench.results.folder import ResultsFolder
from ktbench.results.folder_contents import NETWORKS
from ktbench.results.integrity import MISSING, Fault, Integrity, other_weights
from ktbench.results.lock import Lock, many_objects
from ktbench.results.problems import Problem
from ktbench.results.raw import read_samples
from ktbench.results.storage import MOST_BYTES, DamagedError, Stored, validation_reason
from ktbench.results.unpacking import Unpacked, is_packed
from ktbench.system.files import UnsuitableFileError, read_regular

_REMEDIES = {
    "weights": "run again to train the cell again",
    "curves": "run again to train the cell again",
    "artifact": "run again to export it again",
    "teacher": "run again to restore the teacher",
    "start": "run again to restore the first weights",
}
_BLOCKS: tuple[tuple[str, type[Record]], ...] = (
    ("assembled-", Assembly),
    ("search-", BlockSearch),
    ("", BlockResult),
)
_BLOCK_REMEDY = "delete it: it is made again where it is needed"
_DAY = timedelta(days=1)


@dataclass
class Verified:
    """Result of a verification: counts of what was checked, and the problems."""

    path: Path
    results: int = 0
    measurements: int = 0
    unsealed: int = 0
    """Records written by a version without seals."""
    problems: list[Problem] = field(default_factory=list)


def verify(path: Path, *, partial: bool = False) -> Verified:
    """Check the lock, every record, and every file that a record names.

    `path` is a results folder or a packed one. With `partial`, files that are missing are no fault:
    published results leave weights out, and so do packed ones, for which this is always so.
    Raises KtbenchError where the path is no results folder.
    """
    if is_packed(path):
        with Unpacked(path, networks=True).named() as place:
            verified = _verify(path, ResultsFolder(place))
        verified.problems = without_missing_networks(verified.problems)
    else:
        verified = _verify(path, ResultsFolder(path))
    if partial:
        verified.problems = [p for p in verified.problems if p.reason != MISSING]
    return verified


def without_missing_networks(problems: list[Problem]) -> list[Problem]:
    """The problems of a folder from which weights and exported students are left out on purpose."""
    return [p for p in problems if p.reason != MISSING or not NETWORKS.fullmatch(p.path)]


def _verify(path: Path, folder: ResultsFolder) -> Verified:
    if not folder.path.is_dir() or not folder.lock_file.exists():
        raise KtbenchError(f"{path}: no results folder: it has no lock.json")
    verified = Verified(path)
    with many_objects():
        lock = _lock(folder, verified)
        cells = {c.key: c for c in lock.plan.cells} if lock is not None else None
        _results(folder, lock, cells, verified)
        _measurements(folder, verified)
        _blocks(folder, verified)
        try:
            folder.failures()
        except KtbenchError as error:
            verified.problems.append(Problem.of(error, folder.path, folder.path / "failures.json"))
    verified.problems = list(dict.fromkeys(verified.problems))
    return verified


def _lock(folder: ResultsFolder, verified: Verified) -> Lock | None:
    try:
        lock = folder.lock()
    except KtbenchError as error:
        verified.problems.append(Problem.of(error, folder.path, folder.lock_file))
        return None
    verified.problems += _later(lock.provenance, "lock.json")
    return lock


def _results(
    folder: ResultsFolder, lock: Lock | None, cells: dict[str, Cell] | None, verified: Verified
) -> None:
    integrity = Integrity(folder.path, lock)
    for key in folder.result_keys():
        path = folder.cell(key)
        try:
            record = folder.stored(key)
        except KtbenchError as error:
            verified.problems.append(Problem.of(error, folder.path, path, key))
            continue
        if record is None:
            continue
        verified.results += 1
        verified.unsealed += not record.sealed
        place = path.relative_to(folder.path).as_posix()
        for reason in (*_against_itself(record.record), *_against_lock(record.record, lock)):
            verified.problems.append(Problem(place, reason, "delete it and run again", key))
        verified.problems += _later(record.record.provenance, place, key)
        wanted = cells is None or key in cells
        for fault in integrity.faults(record):
            verified.problems.append(_told(fault, key, wanted))


def _told(fault: Fault, key: str, wanted: bool) -> Problem:
    remedy = _REMEDIES[fault.part]
    if not wanted:
        remedy = f"the matrix has no such cell any more: delete cells/{key}.json if it can go"
    shared = fault.part in ("teacher", "start")  # One line, however many cells share it.
    return Problem(fault.path, fault.reason, remedy, "" if shared else key)


def _against_itself(result: Result) -> Iterator[str]:
    """Contradictions between a record and its own cell."""
    checkpoint, cell = result.checkpoint, result.cell
    if checkpoint is not None and checkpoint.epochs != cell.train.epochs:
        yield f"has {checkpoint.epochs} epochs, where its cell has {cell.train.epochs}"
    taught = (*([result.teacher] if result.teacher else []), *result.ensemble)
    keys = [teacher.cell.key for teacher in cell.teachers]
    if taught and [teacher.cell_key for teacher in taught] != keys:
        yield "its teachers are not those of its cell"
    if result.warmup is not None and (
        cell.warmup is None or result.warmup.cell_key != cell.warmup.cell.key
    ):
        yield "its warm-up is not that of its cell"
    if result.pretrained is not None and (
        cell.pretrained is None or result.pretrained.checkpoint.cell_key != cell.pretrained.cell.key
    ):
        yield "it began from other weights than its cell says"


def _against_lock(result: Result, lock: Lock | None) -> Iterator[str]:
    if lock is None or result.status == "skipped":
        return
    ours, theirs = (p.versions.get("torch") for p in (result.provenance, lock.provenance))
    if ours and theirs and ours != theirs:
        yield f"was made with torch {ours}, the folder with {theirs}"
    if result.provenance.machine != lock.provenance.machine:
        yield f"was made on {result.provenance.machine}, the folder on {lock.provenance.machine}"


def _later(made: Provenance, place: str, key: str = "") -> Iterator[Problem]:
    if _is_later(made.created):
        reason = f"is of {made.created}, which is still to come"
        yield Problem(place, reason, "set the clock right, or delete it and run again", key)


def _is_later(moment: str) -> bool:
    then = datetime.fromisoformat(moment)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return then > datetime.now(UTC) + _DAY


def _measurements(folder: ResultsFolder, verified: Verified) -> None:
    for path in folder.measurement_files():
        try:
            record: Stored[Measurement] = folder.measurement(path)
        except KtbenchError as error:
            verified.problems.append(Problem.of(error, folder.path, path))
            continue
        verified.measurements += 1
        verified.unsealed += not record.sealed
        measured = record.record
        if _is_later(measured.started):
            reason = f"is of {measured.started}, which is still to come"
            place = path.relative_to(folder.path).as_posix()
            verified.problems.append(Problem(place, reason, "delete it and run again"))
        samples = measured.samples
        try:
            read_samples(folder.path / samples, measured, record.files.get(samples))
        except DamagedError as error:
            remedy = "run again to measure it again"
            verified.problems.append(Problem(samples, error.reason, remedy))


def _blocks(folder: ResultsFolder, verified: Verified) -> None:
    """Check block records and existing block weights; lost ones are made again when needed."""
    for path in sorted((folder.path / "blocks").glob("[!.]*.json")):
        if path.name.startswith("times-"):
            continue
        kind = next(kind for prefix, kind in _BLOCKS if path.name.startswith(prefix))
        try:
            record = kind.model_validate_json(read_regular(path, MOST_BYTES, follow=False))
        except (ValidationError, UnsuitableFileError, OSError) as error:
            reason = validation_reason(error) if isinstance(error, ValidationError) else str(error)
            place = path.relative_to(folder.path).as_posix()
            verified.problems.append(Problem(place, reason, _BLOCK_REMEDY))
            continue
        if isinstance(record, BlockResult) and (folder.path / record.path).exists():
            wrong = other_weights(folder.path / record.path, record.digest)
            if wrong:
                verified.problems.append(Problem(record.path, wrong, _BLOCK_REMEDY))
