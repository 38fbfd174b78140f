"""Sizes of all that ktbench keeps on disk, and its removal.

Nothing that a run in progress holds is removed: each thing is removed under the lock that a run
takes for it, and what a process of this user has open counts as held, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil

from ktbench.records import KtbenchError
from ktbench.results.folder_contents import refuse_unknown_lock
from ktbench.results.run_lock import refuse_held, run_lock
from ktbench.system.files import cache_folder

Kind = Literal["results", "work", "teachers", "outputs", "caches"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ABOUT: dict[Kind, str] = {
    "results": "whole results folders",
    "work": "unfinished trainings, logs and damaged files in results folders",
    "teachers": "trained teachers, which are trained again where they are needed",
    "outputs": "teachers' outputs, which are computed again",
    "caches": "checks of arithmetic, vocabularies and packages for boards, which are made again",
}
_WORK = ("work", "logs", "damaged")


@dataclass(frozen=True)
class Kept:
    """One thing on disk."""

    kind: Kind
    path: Path
    bytes: int
    held: str
    """Reason for which it cannot be removed now; empty where it can."""


def kept(folders: Sequence[Path]) -> list[Kept]:
    """List what lies in results folders, or in folders of them, and in the user's cache.

    The largest of each kind come first.
    """
    busy = _open_files()
    listed = [
        Kept(kind, path, _bytes(kind, path), _held(kind, path, busy))
        for kind, path in _all(folders)
    ]
    return sorted(listed, key=lambda one: (KINDS.index(one.kind), -one.bytes, str(one.path)))


def remove(one: Kept) -> str:
    """Remove a thing; return an empty text, or the reason for which it stays."""
    try:
        with _lock(one.kind, one.path):
            if reason := _opened(one.path, _open_files()):
                return reason
            for path in _parts(one.kind, one.path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if one.kind == "results":
            one.path.rmdir()
    except KtbenchError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or one.path}: {error.strerror}"
    return ""


def _parts(kind: Kind, path: Path) -> list[Path]:
    """Return what is removed, in that order: what makes a results folder one goes last."""
    if kind == "results":
        names = sorted(path.iterdir(), key=lambda each: (each.name == "lock.json", each.name))
        return [each for each in names if each.name != "running"]
    if kind == "work":
        return [path / name for name in _WORK if (path / name).is_dir()]
    return [path]


# ---------------------------------------------------------------- what there is


def _all(folders: Sequence[Path]) -> Iterator[tuple[Kind, Path]]:
    for folder in _results_folders(folders):
        yield "results", folder
        if any((folder / name).is_dir() for name in _WORK):
            yield "work", folder
    cache = cache_folder()
    for kind, name in (("teachers", "teachers"), ("outputs", "outputs")):
        if (cache / name).is_dir():
            for path in sorted((cache / name).iterdir()):
                if path.is_dir():
                    yield kind, path  # type: ignore[misc]
    for path in sorted(cache.iterdir()) if cache.is_dir() else ():
        if path.name in ("arithmetic", "vocabularies", "wheels"):
            yield "caches", path


def _results_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield results folders, and those that lie directly in the others."""
    for folder in folders:
        if not folder.is_dir():
            raise KtbenchError(f"{folder}: no such folder: name a results folder, or one of them")
        inside = [folder] if (folder / "lock.json").is_file() else sorted(folder.iterdir())
        for path in inside:
            if path.is_dir() and not path.is_symlink() and (path / "lock.json").is_file():
                with suppress(KtbenchError):
                    refuse_unknown_lock(path / "lock.json")  # another program's is left alone
                    yield path


def _bytes(kind: Kind, path: Path) -> int:
    """Return the size of all files that belong to a thing, links not followed."""
    total = 0
    for part in _parts(kind, path) if kind == "work" else [path]:
        for place, _, names in os.walk(part):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(Path(place, name)).st_size
    return total


# ---------------------------------------------------------------- what is held


def _held(kind: Kind, path: Path, busy: Sequence[Path]) -> str:
    try:
        if kind in ("results", "work"):
            refuse_held(path)
    except KtbenchError as error:
        return str(error)
    if kind == "teachers" and not _free(path / "held"):
        return "a run is training it"
    return _opened(path, busy)


def _opened(path: Path, busy: Sequence[Path]) -> str:
    inside = [each for each in busy if each.is_relative_to(path.absolute())]
    return f"a process has {inside[0].name} open" if inside else ""


def _free(lock: Path) -> bool:
    with suppress(OSError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _open_files() -> list[Path]:
    """Return the files that other processes of this user have open, as far as that is told."""
    files: set[str] = set()
    for process in psutil.process_iter():
        if process.pid != os.getpid():
            with suppress(psutil.Error, OSError):
                files |= {each.path for each in process.open_files()}
    return [Path(name) for name in files if name.startswith("/")]


@contextmanager
def _lock(kind: Kind, path: Path) -> Iterator[None]:
    """Hold a thing as a run does; raises KtbenchError where a run holds it."""
    with ExitStack() as stack:
        if kind in ("results", "work"):
            stack.enter_context(run_lock(path))
        elif kind == "teachers" and (path / "held").exists():
            file = stack.enter_context((path / "held").open("rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise KtbenchError("a run is training it") from error
        yield
