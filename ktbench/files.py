"""Files that are whole or not there, and bounded reads of regular files only."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from ktbench.records import KtbenchError, StorageError

PREFIX = ".tmp-"
"""Temporary names start with this, so that a killed run's leftovers can be told and removed."""

MOST_TEXT = 16 << 20
"""Bytes of a file that people write: far more than any matrix or label file holds."""
MOST_RECORD = 1 << 30
"""Bytes of a record, an artifact or one picture."""
MOST_WEIGHTS = 64 << 30
"""Bytes of a checkpoint: more than fits the memory of the machines that a student is meant for."""


class UnsuitableFileError(KtbenchError):
    """A path that leads to something other than a regular file, or to one that is too large."""


def cache_folder() -> Path:
    """Where ktbench keeps what later runs can use again."""
    own = os.environ.get("KTBENCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench"


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that its name never shows half of it, even through a loss of power.

    Raises StorageError when the disk is full; what stood there before is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
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


# ---------------------------------------------------------------- reading


_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: Path | str, limit: int = MOST_RECORD) -> int:
    """The size of a regular file of at most `limit` bytes, for readers that open it themselves.

    Raises UnsuitableFileError for anything else, IsADirectoryError for a folder, and OSError for a
    path that is not there or may not be looked at. A link counts as what it leads to.
    """
    try:
        status = Path(path).stat()
    except ValueError as error:  # a zero byte or half a character, which no path can hold
        raise UnsuitableFileError(f"{str(path)!r}: cannot be a path: {error}") from error
    return _suitable(path, status, limit)


def read_regular(path: Path | str, limit: int = MOST_RECORD) -> bytes:
    """All bytes of a regular file; raises as `check_regular`, and never reads beyond `limit`."""
    check_regular(path, limit)
    # Between the look and this line a pipe may have taken the file's place: opening must not wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        _suitable(path, os.fstat(handle), limit)
        content = file.read(limit + 1)
    if len(content) > limit:  # it has grown, or its size is not told, as below /proc
        raise _too_large(path, len(content), limit)
    return content


def _suitable(path: Path | str, status: os.stat_result, limit: int) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "something")
        raise UnsuitableFileError(f"{path}: is {kind}, not a regular file: name a file")
    if status.st_size > limit:
        raise _too_large(path, status.st_size, limit)
    return status.st_size


def _too_large(path: Path | str, size: int, limit: int) -> UnsuitableFileError:
    return UnsuitableFileError(
        f"{path}: {_size(size)} are more than the {_size(limit)} that such a file may hold: "
        "name another file"
    )


def _size(count: int) -> str:
    """Bytes in the largest unit that leaves at least one."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"
