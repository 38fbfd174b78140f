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
report/             the report
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ktbench.files import PREFIX, write_atomically
from ktbench.records import (
    SCHEMA,
    Cell,
    Failure,
    KtbenchError,
    Measurement,
    Plan,
    Provenance,
    Record,
    Result,
)
from ktbench.results import running
from ktbench.results.lock import Lock, LockFile

_SAMPLES = ".samples.parquet"
_FOLDERS = (
    "cells",
    "weights",
    "artifacts",
    "measurements",
    "teachers",
    "blocks",
    "work",
    "report",
)
_FILES = ("matrix.yaml", "failures.json")
_CLEARING = "clearing"
"""There from the start of a `fresh` run's deletions to their end, so that a kill between them
cannot leave old results under a new lock."""

_Kind = TypeVar("_Kind", bound=Record)


class ResultsFolder:
    """A results folder: anybody may read it, one run at a time may write it (`open`)."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._held = False

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
    ) -> Iterator[ResultsFolder]:
        """Hold the folder for a run of `plan`; it is made when it is not there.

        The matrix may differ from the last run's: results of cells that it no longer has stay on
        disk, and `load_results` leaves them out. With `fresh`, what an earlier run wrote is
        deleted once the folder is held. Raises KtbenchError when another run holds the folder,
        when it is not a results folder or of a newer ktbench, and when its data, torch version or
        machine architecture differ.
        """
        lock = Lock(plan=plan, provenance=provenance, data_digest=data_digest)
        with ExitStack() as stack:
            try:
                self._refuse_foreign()
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(running.run_lock(self.path))
                self._refuse_foreign()
                self._prepare(lock, matrix_text, fresh)
            except OSError as error:
                raise KtbenchError(f"{error.filename or self.path}: {error.strerror}") from error
            self._held = True
            try:
                yield self
            finally:
                self._held = False

    def _refuse_foreign(self) -> None:
        """Nothing is written into, or deleted from, a folder that no run of ktbench made."""
        if self.path.exists() and not self.path.is_dir():
            raise KtbenchError(f"{self.path}: is a file: choose another --results folder")
        if not self.path.is_dir() or self.lock_file.exists():
            return
        foreign = [
            p.name
            for p in self.path.iterdir()
            if p.name != running.NAME and not p.name.startswith(PREFIX)
        ]
        if foreign:
            raise KtbenchError(
                f"{self.path}: holds {min(foreign)!r} but no lock.json, so it is no results "
                "folder: choose another --results folder"
            )

    def _prepare(self, lock: Lock, matrix_text: str, fresh: bool) -> None:
        """Bring the held folder to the state in which a run of `lock.plan` can begin."""
        clearing = self.path / _CLEARING
        if self.lock_file.exists():
            if fresh or clearing.exists():
                self._refuse_unknown_lock()
                write_atomically(clearing, "")
                self._clear()
            else:
                _refuse_to_mix(self.path, self.lock(), lock)
        self._remove_leftovers()
        write_atomically(self.lock_file, LockFile.of(lock).model_dump_json())
        write_atomically(self.path / "matrix.yaml", matrix_text)
        (self.path / "failures.json").unlink(missing_ok=True)
        clearing.unlink(missing_ok=True)
        for name in _FOLDERS[:-1]:
            (self.path / name).mkdir(exist_ok=True)

    def _refuse_unknown_lock(self) -> None:
        """Deleting needs a lock.json that only ktbench can have written, of any version."""
        try:
            found = json.loads(self.lock_file.read_bytes())
            known = isinstance(found, dict) and {"schema_version", "plan"} <= found.keys()
        except ValueError:
            known = False
        if not known:
            raise KtbenchError(
                f"{self.lock_file}: is no lock of ktbench: nothing was deleted; delete the folder "
                "yourself if it can go"
            )

    def _clear(self) -> None:
        """Delete what ktbench wrote, the lock excepted; other files stay, links are not followed.

        The lock goes last, by being replaced: a folder without one would be refused.
        """
        for name in _FOLDERS:
            place = self.path / name
            if place.is_symlink():
                place.unlink()
            elif place.exists():
                shutil.rmtree(place)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of a killed run."""
        places = [self.path, *(self.path / name for name in _FOLDERS)]
        for number, place in enumerate(places):
            pattern = f"{PREFIX}*" if number == 0 else f"**/{PREFIX}*"
            for leftover in place.glob(pattern):
                leftover.unlink(missing_ok=True)

    # ------------------------------------------------------------ reading

    def lock(self) -> Lock:
        """The folder's lock; raises KtbenchError when there is none or it cannot be read."""
        if not self.lock_file.is_file():
            raise KtbenchError(f"{self.path}: no results folder: it has no lock.json")
        file = _read(LockFile, self.lock_file)
        try:
            return file.lock()
        except IndexError as error:
            raise KtbenchError(
                f"{self.lock_file}: is damaged (a cell names a part that is not there): restore "
                "it, or choose another --results folder"
            ) from error

    def result(self, key: str) -> Result | None:
        """A cell's result, or None when there is none yet.

        Raises KtbenchError when the file is damaged, of a newer schema or of another cell.
        """
        found = self._result(key)
        if found is not None and found.cell.key != key:
            raise self._renamed(key, found)
        return found

    def result_of(self, cell: Cell) -> Result | None:
        """`result`, checked by comparing cells, which is quicker than working out a key."""
        found = self._result(cell.key)
        if found is not None and found.cell != cell:
            raise self._renamed(cell.key, found)
        return found

    def _result(self, key: str) -> Result | None:
        path = self.cell(key)
        return _read(Result, path) if path.exists() else None

    def _renamed(self, key: str, found: Result) -> KtbenchError:
        return KtbenchError(
            f"{self.cell(key)}: holds the result of cell {found.cell.key}: it was edited or "
            "renamed; delete the file to run the cell again"
        )

    def results(self) -> Iterator[Result]:
        """Every result on disk, by key; cells that the matrix no longer has included."""
        for path in sorted((self.path / "cells").glob("[!.]*.json")):
            result = self.result(path.name.removesuffix(".json"))
            if result is not None:
                yield result

    def measurements(self) -> Iterator[Measurement]:
        """Every measurement on disk, by name."""
        for path in sorted((self.path / "measurements").glob("[!.]*.json")):
            yield _read(Measurement, path)

    def failures(self) -> tuple[Failure, ...]:
        """What the last run could not do that belongs to no cell: a device out of reach."""
        path = self.path / "failures.json"
        if not path.exists():
            return ()
        try:
            return _FAILURES.validate_json(path.read_bytes())
        except ValidationError as error:
            raise _unreadable(path, path.read_bytes(), error) from error

    # ------------------------------------------------------------ writing

    def write_result(self, result: Result) -> None:
        """Write a cell's result, once.

        A `failed` or `skipped` one may be replaced, as nothing was trained for good. To a trained
        one artifacts may be added: what it was exported to before, and its teacher, stay in the
        record. The same result again is no error. Raises KtbenchError on any other change.
        """
        self._require_hold()
        earlier = self.result(result.cell.key)
        if earlier == result:
            return
        if earlier is not None and earlier.status == "done":
            if result.checkpoint != earlier.checkpoint:
                raise KtbenchError(
                    f"{self.cell(result.cell.key)}: a result is never changed: use --fresh or "
                    "another folder"
                )
            result = _extended(earlier, result)
        write_atomically(self.cell(result.cell.key), result.model_dump_json(indent=1))

    def drop_work(self, key: str) -> None:
        """Remove the saved work of a training whose result is written."""
        self._require_hold()
        shutil.rmtree(self.work(key), ignore_errors=True)

    def write_measurement(self, measurement: Measurement) -> None:
        """Write a measurement beside its samples, under their name.

        An invalid one may be replaced. Raises KtbenchError on any other change.
        """
        self._require_hold()
        name = Path(measurement.samples).name.removesuffix(_SAMPLES)
        path = self.path / "measurements" / f"{name}.json"
        if path.exists():
            earlier = _read(Measurement, path)
            if earlier == measurement:
                return
            if earlier.validity.valid:
                raise KtbenchError(
                    f"{path}: a measurement is never changed: use --fresh or another folder"
                )
        write_atomically(path, measurement.model_dump_json(indent=1))

    def write_failures(self, failures: Sequence[Failure]) -> None:
        """Replace the list of what this run could not do that belongs to no cell."""
        self._require_hold()
        write_atomically(self.path / "failures.json", _FAILURES.dump_json(tuple(failures)))

    def _require_hold(self) -> None:
        if not self._held:
            raise RuntimeError("a results folder is written inside `with folder.open(...)` only")


def _extended(earlier: Result, result: Result) -> Result:
    """The newer result, with the origin and the other artifacts of the earlier one."""
    replaced = {a.export.label for a in result.artifacts} | {f.what for f in result.failures}
    kept = tuple(a for a in earlier.artifacts if a.export.label not in replaced)
    origin = {name: getattr(earlier, name) for name in ("teacher", "ensemble", "start")}
    return result.model_copy(update={**origin, "artifacts": (*kept, *result.artifacts)})


_FAILURES = TypeAdapter(tuple[Failure, ...])


def _read(kind: type[_Kind], path: Path) -> _Kind:
    """A record from its file; raises KtbenchError that names the file, and leaves it alone."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KtbenchError(f"{path}: cannot read: {error.strerror}") from error
    try:
        found = kind.model_validate_json(content)
    except ValidationError as error:
        raise _unreadable(path, content, error) from error
    _refuse_newer(path, getattr(found, "schema_version", SCHEMA))
    return found


def _unreadable(path: Path, content: bytes, error: ValidationError) -> KtbenchError:
    what = "no whole JSON"
    with suppress(ValueError):
        plain = json.loads(content)
        if isinstance(plain, dict):
            _refuse_newer(path, plain.get("schema_version", SCHEMA))
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"
    remedy = "delete it to have it made again"
    if path.name == "lock.json":
        remedy = "choose another --results folder"
    return KtbenchError(f"{path}: is damaged ({what}): restore it, or {remedy}")


def _refuse_newer(path: Path, version: object) -> None:
    if isinstance(version, int) and version > SCHEMA:
        raise KtbenchError(
            f"{path}: written by a newer ktbench (schema {version}, this one knows {SCHEMA}): "
            "upgrade ktbench, or choose another --results folder"
        )


def _refuse_to_mix(path: Path, earlier: Lock, now: Lock) -> None:
    """Results of different data, torch or processor kinds never lie in one folder."""
    facts = (
        ("data (digest)", earlier.data_digest, now.data_digest),
        ("torch", earlier.provenance.versions.get("torch"), now.provenance.versions.get("torch")),
        ("machine", earlier.provenance.machine, now.provenance.machine),
        ("instruction set", earlier.provenance.instruction_set, now.provenance.instruction_set),
    )
    for what, old, new in facts:
        if what == "instruction set" and None in (old, new):
            continue  # not known, as in older folders
        if old != new:
            raise KtbenchError(
                f"{path}: its results were made with {what} {old}, this run has {new}: they are "
                "never mixed; use --fresh or another --results folder"
            )
