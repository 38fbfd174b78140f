"""The results folder of a matrix: what lies where, one writer at a time, whole files only.

lock.json           the matrix as resolved, the environment, the data's digest (`Lock`)
matrix.yaml         the matrix as the user wrote it
running             process, host and start of the run that holds the folder
cells/              KEY.json (a `Result`) and KEY.curves.parquet
weights/            KEY.pt
artifacts/KEY/      exported students and their sidecars
blocks/             trained replacements of a teacher's blocks, what was assembled from them, and
                    the times by which blocks were given to workers
measurements/       ID.json (a `Measurement`) and ID.samples.parquet
failures.json       what the last run could not do that belongs to no cell
work/KEY/           what a cell without a result yet has: its training's checkpoint, its exports
damaged/            files that were not what had been written, set aside before they were made again
report/             the report
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ktbench.records import Cell, Failure, KtbenchError, Measurement, Plan, Provenance, Result
from ktbench.results import run_lock
from ktbench.results.folder_contents import (
    MADE,
    clear,
    refuse_foreign,
    refuse_unknown_lock,
    remove_leftovers,
)
from ktbench.results.lock import LOCK_SCHEMA, Lock, LockFile, TaskWords
from ktbench.results.membership import (
    belongs,
    extended,
    files_of,
    impossible_figure,
    impossible_on_board,
    refuse_to_mix,
    unchanged,
)
from ktbench.results.storage import (
    MOST_BYTES,
    MOST_OF_LOCK,
    DamagedError,
    Mark,
    Stored,
    marks_of,
    sealed,
    stored,
    unsuitable_reason,
    validation_reason,
)
from ktbench.system.files import UnsuitableFileError, read_regular, require_held, write_atomically

_SAMPLES = ".samples.parquet"
_CLEARING = "clearing"
"""Marker file that lasts as long as a `fresh` run deletes, so that a kill in between cannot leave
old results under a new lock."""

_FAILURES = TypeAdapter(tuple[Failure, ...])
_Read = TypeVar("_Read")


class ResultsFolder:
    """A results folder: anybody may read it, one run at a time may write it (`open`)."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._held = False
        self._redone: set[str] = set()
        """Keys of cells whose weights were lost: their results may be replaced."""
        self.lost_measurements: set[str] = set()
        """Names of measurements whose samples were lost: they may be replaced."""
        self._lock: Lock | None = None
        """The lock, once it has been read or written."""
        self.notes: list[str] = []
        """One line for each file that was repaired when the folder was opened."""

    # ------------------------------------------------------------ places

    @property
    def lock_file(self) -> Path:
        """The lock of the matrix and the environment."""
        return self.path / "lock.json"

    def cell(self, key: str) -> Path:
        """A cell's `Result`."""
        return self.path / "cells" / f"{key}.json"

    def curves(self, key: str) -> Path:
        """A cell's per-epoch curves."""
        return self.path / "cells" / f"{key}.curves.parquet"

    def weights(self, key: str) -> Path:
        """A cell's trained weights."""
        return self.path / "weights" / f"{key}.pt"

    def artifacts(self, key: str) -> Path:
        """Folder of a cell's exported students."""
        return self.path / "artifacts" / key

    def work(self, key: str) -> Path:
        """Folder of what an unfinished training needs to go on."""
        return self.path / "work" / key

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    # ------------------------------------------------------------ opening

    @contextmanager
    def open(
        self,
        plan: Plan,
        matrix_text: str,
        provenance: Provenance,
        *,
        fresh: bool = False,
        data_digest: str | None = None,
        classes: int | None = None,
        task: TaskWords | None = None,
        remarks: tuple[str, ...] = (),
    ) -> Iterator[ResultsFolder]:
        """Hold the folder for a run of `plan`, creating it where needed.

        The matrix may differ from the last run's: results of cells that it no longer has stay on
        disk, and `load_results` leaves them out. With `fresh`, what an earlier run wrote is
        deleted once the folder is held. Raises KtbenchError when another run holds the folder,
        when it is not a results folder or of a newer ktbench, and when its data, torch version or
        machine architecture differ.
        """
        lock = Lock(
            plan=plan,
            provenance=provenance,
            data_digest=data_digest,
            classes=classes,
            task=task or TaskWords(),
            remarks=remarks,
        )
        with ExitStack() as stack:
            try:
                refuse_foreign(self.path)
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(run_lock.run_lock(self.path))
                refuse_foreign(self.path)
                self._prepare(lock, matrix_text, fresh)
            except OSError as error:
                raise KtbenchError(f"{error.filename or self.path}: {error.strerror}") from error
            self._held = True
            try:
                yield self
            finally:
                self._held = False

    def replan(self, plan: Plan) -> None:
        """Write another plan into the lock of the held folder, with the rest as it was opened."""
        self._require_hold()
        self._lock = self.lock().model_copy(update={"plan": plan})
        write_atomically(self.lock_file, sealed(LockFile.of(self._lock)))

    def _prepare(self, lock: Lock, matrix_text: str, fresh: bool) -> None:
        """Prepare the held folder for a run of `lock.plan`."""
        clearing = self.path / _CLEARING
        if self.lock_file.exists():
            if fresh or clearing.exists():
                refuse_unknown_lock(self.lock_file)
                write_atomically(clearing, "")
                clear(self.path)
            else:
                self._refuse_to_mix(lock)
        remove_leftovers(self.path)
        write_atomically(self.lock_file, sealed(LockFile.of(lock)))
        self._lock = lock
        write_atomically(self.path / "matrix.yaml", matrix_text)
        (self.path / "failures.json").unlink(missing_ok=True)
        clearing.unlink(missing_ok=True)
        for name in MADE:
            (self.path / name).mkdir(exist_ok=True)

    def _refuse_to_mix(self, lock: Lock) -> None:
        """Compare with the folder's lock; if it is damaged, with each result's provenance."""
        try:
            refuse_to_mix(self.path, self.lock(), lock)
        except DamagedError as error:
            results = [
                result for key in self.result_keys() if (result := self._sound(key)) is not None
            ]
            if not results:
                raise
            for result in results:
                now = lock.model_copy(update={"data_digest": None})
                refuse_to_mix(self.path, Lock(plan=lock.plan, provenance=result.provenance), now)
            self._held = True
            self.set_aside(self.lock_file)
            self._held = False
            self.notes.append(f"damaged: lock.json ({error.reason}): set aside, written again")

    def _sound(self, key: str) -> Result | None:
        try:
            return self.result(key)
        except KtbenchError:
            return None

    # ------------------------------------------------------------ reading

    def lock(self) -> Lock:
        """The folder's lock; raises KtbenchError when there is none or it cannot be read."""
        remedy = "run its matrix again to have it replaced"
        try:
            file = stored(
                LockFile, self.lock_file, most=MOST_OF_LOCK, remedy=remedy, newest=LOCK_SCHEMA
            )
            self._lock = file.record.lock()
            return self._lock
        except (FileNotFoundError, NotADirectoryError) as error:
            raise KtbenchError(f"{self.path}: no results folder: it has no lock.json") from error
        except (LookupError, ValueError) as error:
            reason = "a cell names a part that is not there, or cannot be"
            raise DamagedError(self.lock_file, reason, remedy) from error

    def result(self, key: str) -> Result | None:
        """A cell's result, or None when there is none yet.

        Raises DamagedError when the file is not what was written or of another cell, KtbenchError
        when it is of a newer schema or cannot be read.
        """
        stored = self.stored(key)
        return None if stored is None else stored.record

    def stored(self, key: str) -> Stored[Result] | None:
        """A cell's result with the marks of its files; raises as `result`."""
        return self._stored(key, lambda cell: cell.key == key)

    def stored_of(self, cell: Cell) -> Stored[Result] | None:
        """`stored` for a cell; comparing cells is quicker than computing a key.

        Cells of one key may differ in what no weight depends on, such as where their files lie.
        """
        return self._stored(cell.key, lambda other: other == cell or other.key == cell.key)

    def _stored(self, key: str, same: Callable[[Cell], bool]) -> Stored[Result] | None:
        path = self.cell(key)
        try:
            on_disk = stored(Result, path)
        except FileNotFoundError:
            return None
        if not same(on_disk.record.cell):
            other = f"it holds the result of cell {on_disk.record.cell.key}: edited or renamed"
            raise DamagedError(path, other)
        reason = belongs(on_disk.record, key) or impossible_figure(on_disk.record, self._lock)
        if reason:
            raise DamagedError(path, reason)
        return on_disk

    def result_keys(self) -> list[str]:
        """Keys of all cells that have a result on disk, those no longer in the matrix included."""
        names = (self.path / "cells").glob("[!.]*.json")
        return sorted(path.name.removesuffix(".json") for path in names)

    def results(self) -> Iterator[Result]:
        """Every result on disk, by key; cells that the matrix no longer has included."""
        for key in self.result_keys():
            result = self.result(key)
            if result is not None:
                yield result

    def measurement_files(self) -> list[Path]:
        """Files of all measurements on disk, by name."""
        return sorted((self.path / "measurements").glob("[!.]*.json"))

    def measurement(self, path: Path) -> Stored[Measurement]:
        """A measurement from its file; raises as `result` does."""
        on_disk = stored(Measurement, path)
        if on_disk.record.samples != f"measurements/{path.stem}{_SAMPLES}":
            reason = (
                f"it holds the measurement of {on_disk.record.samples}: it was edited or renamed"
            )
            raise DamagedError(path, reason)
        impossible = impossible_on_board(on_disk.record, self._lock)
        if impossible is not None:
            raise DamagedError(path, impossible)
        return on_disk

    def measurements(self) -> Iterator[Measurement]:
        """Every measurement on disk, by name."""
        for path in self.measurement_files():
            yield self.measurement(path).record

    def failures(self) -> tuple[Failure, ...]:
        """Failures of the last run that belong to no cell, such as an unreachable device."""
        path = self.path / "failures.json"
        try:
            return _FAILURES.validate_json(read_regular(path, MOST_BYTES, follow=False))
        except FileNotFoundError:
            return ()
        except UnsuitableFileError as error:
            raise DamagedError(path, unsuitable_reason(error)) from error
        except OSError as error:
            raise DamagedError(path, f"cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise DamagedError(path, validation_reason(error)) from error

    # ------------------------------------------------------------ writing

    def write_result(self, result: Result) -> None:
        """Write a cell's result, once.

        A `failed` or `skipped` one may be replaced, as nothing was trained for good, and so may one
        whose weights were lost (`forget`). To a trained one artifacts may be added: what it was
        exported to before, and its teacher, stay in the record. The same result again is no error.
        Raises KtbenchError on any other change.
        """
        self._require_hold()
        key = result.cell.key
        before = self._whole(self.cell(key), lambda: self.stored(key))
        earlier = before.record if before else None
        if earlier is not None and earlier.status == "done":
            if result.checkpoint == earlier.checkpoint:
                if result != earlier:
                    result = extended(earlier, result)
            elif key not in self._redone:
                raise KtbenchError(
                    f"{self.cell(key)}: a result is never changed: use --fresh or another folder"
                )
        marks = self._marks(result, before)
        if before is None or result != earlier or marks != before.files:
            write_atomically(self.cell(key), sealed(result, marks))

    def _marks(self, result: Result, before: Stored[Result] | None) -> dict[str, Mark]:
        """Marks of a result's files: earlier marks where files are unchanged, else new ones."""
        paths = files_of(result)
        unchanged_paths = set(unchanged(before.record, result)) if before else set()
        earlier = {p: m for p, m in before.files.items() if p in unchanged_paths} if before else {}
        return earlier | marks_of(self.path, [p for p in paths if p not in earlier])

    def forget(self, key: str, lost: Sequence[str], rewritten: Sequence[str] = ()) -> None:
        """Drop lost or altered files from a cell's record, so that the run makes them again.

        What stands in their places is set aside. `rewritten` are whole files that will be written
        again with them.
        """
        self._require_hold()
        stored = self.stored(key)
        assert stored is not None
        for path in lost:
            self.set_aside(self.path / path)
        given_up = {*lost, *rewritten}
        if stored.record.checkpoint and stored.record.checkpoint.path in given_up:
            self._redone.add(key)
        if stored.sealed:
            remaining = {path: mark for path, mark in stored.files.items() if path not in given_up}
            write_atomically(self.cell(key), sealed(stored.record, remaining))

    def set_aside(self, path: Path) -> None:
        """Move a damaged file to `damaged/`, where nothing looks for it."""
        self._require_hold()
        name = "-".join(path.relative_to(self.path).parts)
        place = self.path / "damaged"
        number, target = 1, place / name
        while target.is_symlink() or target.exists():
            number, target = number + 1, place / f"{name}.{number}"
        try:
            place.mkdir(exist_ok=True)
            path.rename(target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise KtbenchError(f"{path}: cannot set it aside: {error.strerror}") from error

    def _whole(self, path: Path, read: Callable[[], _Read | None]) -> _Read | None:
        """Read the existing record; a damaged file is set aside and counts as none."""
        try:
            return read()
        except FileNotFoundError:
            return None
        except DamagedError:
            self.set_aside(path)
            return None

    def drop_work(self, key: str) -> None:
        """Remove the saved work of a training whose result is written."""
        self._require_hold()
        shutil.rmtree(self.work(key), ignore_errors=True)

    def write_measurement(self, measurement: Measurement) -> None:
        """Write a measurement beside its samples, under their name.

        An invalid or a damaged one may be replaced. Raises KtbenchError on any other change.
        """
        self._require_hold()
        name = Path(measurement.samples).name.removesuffix(_SAMPLES)
        path = self.path / "measurements" / f"{name}.json"
        before, lost = self._whole(path, lambda: self.measurement(path)), self.lost_measurements
        marks = marks_of(self.path, [measurement.samples])
        if before is not None and before.record.validity.valid and name not in lost:
            if before.record == measurement:
                return
            raise KtbenchError(
                f"{path}: a measurement is never changed: use --fresh or another folder"
            )
        write_atomically(path, sealed(measurement, marks))

    def measure_again(self, path: Path, samples: str) -> None:
        """Mark a measurement whose samples are lost for repetition; its record stays until then."""
        self.lost_measurements.add(path.stem)
        self.set_aside(self.path / samples)

    def write_failures(self, failures: Sequence[Failure]) -> None:
        """Replace the list of this run's failures that belong to no cell."""
        self._require_hold()
        write_atomically(self.path / "failures.json", _FAILURES.dump_json(tuple(failures)))

    def _require_hold(self) -> None:
        if not self._held:
            raise RuntimeError("a results folder is written inside `with folder.open(...)` only")
        require_held(self.path)
