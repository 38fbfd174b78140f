"""Packs a results folder into one file: `ktbench pack DIR FILE.ktb`.

The same folder gives the same bytes: names are sorted, dates and permissions fixed. Records keep
their seals, and the lock names the folder of the matrix no more. The report is left out, as it is
made again from the rest, and so are logs, saved work and files that no run of ktbench wrote.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ktbench.records import KtbenchError
from ktbench.results.folder_contents import FOLDERS, NETWORKS, RECORDS
from ktbench.results.lock import LOCK_SCHEMA, LockFile
from ktbench.results.problems import Problem
from ktbench.results.run_lock import refuse_held
from ktbench.results.storage import MOST_OF_LOCK, DamagedError, sealed, stored
from ktbench.results.unpacking import MOST_FILES, SUFFIX, most_bytes
from ktbench.results.verification import verify, without_missing_networks
from ktbench.system.files import UnsuitableFileError, check_regular, whole_file


@dataclass(frozen=True)
class Packed:
    """Result of packing a folder."""

    files: int
    """Packed files; 0 where nothing was packed."""
    bytes: int
    """Size of the pack."""
    problems: tuple[Problem, ...]


def pack(folder: Path, target: Path, *, networks: bool = False, as_is: bool = False) -> Packed:
    """Pack a folder, with its weights and exported students where `networks` asks for them.

    Where `verify` finds problems nothing is packed, unless `as_is` asks for it; that networks are
    missing is a problem only where they are to be packed. Raises KtbenchError when a run holds the
    folder, it is no results folder, or the file cannot be written.
    """
    if target.suffix != SUFFIX:
        raise KtbenchError(f"{target}: the name of a packed folder ends in {SUFFIX}")
    if not folder.is_dir():
        raise KtbenchError(f"{folder}: no results folder: it has no lock.json")
    refuse_held(folder)
    verified = verify(folder).problems
    problems = tuple(verified if networks else without_missing_networks(verified))
    if problems and not as_is:
        return Packed(0, 0, problems)
    names = _names(folder, networks=networks)
    with whole_file(target) as file, zipfile.ZipFile(file, "w") as archive:
        for name in names:
            if name == "lock.json" and (lock := _lock_without_place(folder / name)) is not None:
                archive.writestr(_entry(name), lock)
            else:
                _add(archive, folder / name, name)
        refuse_held(folder)  # A run that began meanwhile may have changed anything.
    return Packed(len(names), target.stat().st_size, problems)


def _names(folder: Path, *, networks: bool) -> list[str]:
    """Paths of the files to pack, in order."""
    paths = [path for path in folder.iterdir() if not path.is_dir()]
    for name in (*FOLDERS, "pool"):
        if not (folder / name).is_symlink():
            paths += (path for path in (folder / name).rglob("*") if not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in paths)
    patterns = (RECORDS, NETWORKS) if networks else (RECORDS,)
    chosen = sorted(name for name in names if any(p.fullmatch(name) for p in patterns))
    if len(chosen) > MOST_FILES:
        raise KtbenchError(f"{folder}: has {len(chosen):,} files, a pack holds {MOST_FILES:,}")
    return chosen


def _lock_without_place(path: Path) -> str | None:
    """Return the lock without the absolute folder of the matrix, which is nowhere else to be found.

    None where it names none, and where it is damaged and packed as it is.
    """
    try:
        lock = stored(LockFile, path, most=MOST_OF_LOCK, newest=LOCK_SCHEMA).record
    except (KtbenchError, DamagedError, FileNotFoundError):
        return None
    if not Path(lock.plan.base).is_absolute():
        return None
    plan = lock.plan.model_copy(update={"base": "."})
    return sealed(lock.model_copy(update={"plan": plan}))


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry with the date and permissions that all have."""
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01, the first day that a zip archive knows
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _add(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """Add one regular file."""
    entry = _entry(name)
    try:
        if path.is_symlink():
            raise UnsuitableFileError(path, "is a link, not a regular file")
        entry.file_size = check_regular(path, most_bytes(name))
        source = path.open("rb")
    except OSError as error:
        raise KtbenchError(f"{path}: cannot read it: {error.strerror}") from error
    with source, archive.open(entry, "w") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
