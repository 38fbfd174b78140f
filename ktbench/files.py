"""Files that are whole or not there: temporary name, flush, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ktbench.records import KtbenchError, StorageError

PREFIX = ".tmp-"
"""Temporary names start with this, so that a killed run's leftovers can be told and removed."""


_HELD = "KTBENCH_HELD_FOLDER"
"""Variable of this process, and of those that it starts: the folder that a run holds, and the
device and inode of the file by which it holds it."""


@contextmanager
def held_folder(folder: Path, handle: int, name: str) -> Iterator[None]:
    """Write into a folder only while it is the one that this run holds.

    `handle` is open on the folder's file `name`. When the folder has been renamed, deleted or taken
    over by another run meanwhile, what is to be written into it raises StorageError, here and in
    processes started from here, and nothing is made anew in its place.
    """
    about = os.fstat(handle)
    before = os.environ.get(_HELD)
    held = [str(folder.absolute()), name, about.st_dev, about.st_ino]
    os.environ[_HELD] = json.dumps(held)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_HELD, None)
        else:
            os.environ[_HELD] = before


def require_held(path: Path) -> None:
    """Raise StorageError where a path is in a folder that this run held and holds no more."""
    told = os.environ.get(_HELD)
    if not told:
        return
    folder, name, device, inode = json.loads(told)
    if not path.absolute().is_relative_to(folder):
        return
    try:
        about = Path(folder, name).stat()
        same = (about.st_dev, about.st_ino) == (device, inode)
    except OSError:
        same = False
    if not same:
        raise StorageError(
            f"{folder}: was renamed, deleted or taken over by another run while this one was "
            "writing to it: nothing more is written; run again, with --results if it lies "
            "elsewhere now"
        )


def cache_folder() -> Path:
    """Where ktbench keeps what later runs can use again."""
    own = os.environ.get("KTBENCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench"


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that its name never shows half of it, even through a loss of power.

    Raises StorageError when the disk is full, or the folder is no longer the run's own
    (`held_folder`); what stood there before is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    require_held(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{path}: no space left on the disk: free some and run again, nothing is lost"
            ) from error
        raise StorageError(f"{path}: cannot write: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class NotRegularError(KtbenchError):
    """What stands in a file's place cannot be read as one: a link, a pipe, a folder, too large."""


def read_regular(path: Path, most: int, *, follow: bool = False) -> bytes:
    """A regular file's bytes, `most` of them at most; nothing else is opened for reading.

    A link is followed only where `follow` says so. Raises NotRegularError with what stands there,
    OSError where it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotRegularError("is a link or a socket, not a file") from error
        raise
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise NotRegularError("is not a regular file")
        if about.st_size > most:
            raise NotRegularError(
                f"has {about.st_size:,} bytes, more than the {most:,} that such a file can have"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(handle)
    if len(content) > most:  # it grew meanwhile
        raise NotRegularError(f"has more than {most:,} bytes")
    return content


def digest_of_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 (16 digits) of a regular file, read piece by piece; links are followed.

    Raises NotRegularError and OSError as `read_regular` does.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError("is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            total = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            return file.tell(), total
    finally:
        os.close(handle)
