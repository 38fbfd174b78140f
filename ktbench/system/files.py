"""Atomic writes, and bounded reads of regular files only."""

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
from typing import IO

from ktbench.records import KtbenchError, StorageError

PREFIX = ".tmp-"
"""Temporary names start with this, so that a killed run's leftovers can be told and removed."""

MOST_TEXT = 16 << 20
"""Most bytes of a file that people write: far more than any matrix or label file holds."""
MOST_RECORD = 1 << 30
"""Most bytes of a record, an artifact or one picture."""
MOST_WEIGHTS = 64 << 30
"""Most bytes of a checkpoint: more than fits the memory of the machines that students run on."""


class UnsuitableFileError(KtbenchError):
    """A path that leads to something other than a regular file, or to one that is too large."""

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.what = what
        """The problem, without the path."""


_HELD = "KTBENCH_HELD_FOLDER"
"""Variable of this process, and of those that it starts: the folder that a run holds, and the
device and inode of the file by which it holds it."""


@contextmanager
def held_folder(folder: Path, handle: int, name: str) -> Iterator[None]:
    """Hold a folder, so that writes into it fail once it is no longer this run's.

    `handle` is open on the folder's file `name`. When the folder has been renamed, deleted or taken
    over by another run meanwhile, what is to be written into it raises StorageError, here and in
    processes started from here, and nothing is made again in its place.
    """
    about = os.fstat(handle)
    before = os.environ.get(_HELD)
    identity = [str(folder.absolute()), name, about.st_dev, about.st_ino]
    os.environ[_HELD] = json.dumps(identity)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_HELD, None)
        else:
            os.environ[_HELD] = before


def require_held(path: Path) -> None:
    """Raise StorageError where a path is in a folder that this run held and holds no more."""
    identity = os.environ.get(_HELD)
    if not identity:
        return
    folder, name, device, inode = json.loads(identity)
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
    """Return the folder in which ktbench keeps what later runs can use again."""
    cache = os.environ.get("KTBENCH_CACHE")
    if cache:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ktbench"


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that its name never shows half of it, even through a loss of power.

    Raises as `whole_file`.
    """
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which gets its name once it is complete and flushed to the disk.

    Raises StorageError when the disk is full, or the folder is no longer the run's own
    (`held_folder`); what stood there before is untouched, and so it is where the block raises.
    """
    require_held(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error for the user where a file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{path}: no space left on the disk: free some and run again, nothing is lost"
        )
    return StorageError(f"{path}: cannot write: {error.strerror}")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable by syncing its folder."""
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


def named_path(text: str, base: Path | str) -> Path:
    """Return the path that a matrix names: `${NAME}` and `~` replaced, relative to `base`.

    Raises KtbenchError for an environment variable that is not set.
    """
    whole = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111 - after expandvars
    if "${" in whole:
        name = whole.partition("${")[2].partition("}")[0]
        raise KtbenchError(
            f"path {text!r} needs the environment variable {name}: export {name}=FOLDER"
        )
    return Path(base, whole)


def check_regular(path: Path | str, limit: int = MOST_RECORD) -> int:
    """Return the size of a regular file of at most `limit` bytes, for readers that open it.

    Raises UnsuitableFileError for anything else, IsADirectoryError for a folder, and OSError for a
    path that is not there or may not be looked at. A link counts as what it leads to.
    """
    try:
        status = Path(path).stat()
    except ValueError as error:  # a zero byte or half a character, which no path can hold
        raise UnsuitableFileError(repr(str(path)), f"cannot be a path: {error}") from error
    return _suitable(path, status, limit)


def read_regular(path: Path | str, limit: int = MOST_RECORD, *, follow: bool = True) -> bytes:
    """Read a regular file whole; raises as `check_regular`, and never reads beyond `limit`.

    Without `follow` a link is no regular file: what it leads to may be outside the folder.
    """
    if not follow and Path(path).is_symlink():
        raise UnsuitableFileError(path, "is a link, not a regular file")
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
        raise UnsuitableFileError(path, f"is {kind}, not a regular file: name a file")
    if status.st_size > limit:
        raise _too_large(path, status.st_size, limit)
    return status.st_size


def _too_large(path: Path | str, size: int, limit: int) -> UnsuitableFileError:
    return UnsuitableFileError(
        path,
        f"{_size(size)} are more than the {_size(limit)} that such a file may hold: "
        "name another file",
    )


def _size(count: int) -> str:
    """Write a number of bytes in the largest unit of which there is at least one."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}"
    return f"{count} bytes"


def digest_of_file(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 (16 digits) of a regular file, read in pieces; follows links.

    Raises as `check_regular`.
    """
    check_regular(path, MOST_WEIGHTS)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        _suitable(path, os.fstat(handle), MOST_WEIGHTS)
        total = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return file.tell(), total


CONTENT = ("config.json", "model.safetensors", "tokenizer.json")
"""Files of a folder of pretrained weights on which anything depends."""


def content_files(path: Path) -> list[Path]:
    """Return the files that a setting's path stands for: itself, or those of its folder."""
    return [path / name for name in CONTENT if (path / name).is_file()] if path.is_dir() else [path]


def content_digest(path: Path) -> str:
    """Return 16 digits over a file, or over the names and bytes of a folder's `CONTENT`.

    Raises OSError, and UnsuitableFileError for what is no regular file.
    """
    files = content_files(path)
    for file in files:
        check_regular(file, MOST_WEIGHTS)
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if not path.is_dir():
        return digests[0][:16]
    named = "".join(f"{file.name} {one}\n" for file, one in zip(files, digests, strict=True))
    return hashlib.sha256(named.encode()).hexdigest()[:16]
