"""Lock that lets one run at a time write a results folder: the file `running`, held by flock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ktbench.records import KtbenchError
from ktbench.system import provenance
from ktbench.system.files import held_folder

NAME = "running"
_ELSEWHERE = ", or choose another --results folder"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; raises KtbenchError with the holder's process and host.

    The kernel frees the lock of a killed process, so what it left is taken over on this machine.
    Nothing is written into the folder once it is no longer the one that is held (`held_folder`).
    A file of another machine stays in force: whether its process lives cannot be told from here.
    """
    path = folder / NAME
    handle = _acquire(path)
    try:
        _refuse_other_machine(path, os.pread(handle, 65536, 0), _ELSEWHERE)
        _sign(path, handle)
    except BaseException:
        os.close(handle)
        raise
    try:
        with held_folder(folder, handle, NAME):
            yield
    finally:
        if _is_same_file(handle, path):  # Another run's, where the folder was moved away.
            path.unlink(missing_ok=True)  # Before the lock is freed: nobody else can hold it yet.
        os.close(handle)


def refuse_held(folder: Path) -> None:
    """Raise KtbenchError where a run holds a folder; nothing is written, so it may be read-only."""
    path = folder / NAME
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        holder = os.pread(handle, 65536, 0)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _refusal(path, _holder(holder)) from error
            if error.errno not in _NO_LOCKS:
                raise
        _refuse_other_machine(path, holder)
    finally:
        os.close(handle)


def _sign(path: Path, handle: int) -> None:
    """Write who holds the folder; where that fails, on a full disk, nobody does."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_myself()).encode(), 0)
        os.fsync(handle)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _acquire(path: Path) -> int:
    """An open handle on `path` with the exclusive lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(os.pread(handle, 65536, 0))
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _refusal(path, holder, _ELSEWHERE) from error
            if error.errno in _NO_LOCKS:
                raise KtbenchError(
                    f"{path}: this file system has no locks ({error.strerror}): choose a results "
                    "folder on a local disk"
                ) from error
            raise
        if _is_same_file(handle, path):
            return handle
        os.close(handle)  # The last holder removed it between our open and our lock.


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _myself() -> dict[str, object]:
    return {
        "process": os.getpid(),
        "host": provenance.host(),
        "boot": provenance.boot_id(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder(content: bytes) -> dict[str, object]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _refuse_other_machine(path: Path, content: bytes, remedy: str = "") -> None:
    holder = _holder(content)
    if not holder:
        return
    me = _myself()
    same_kernel = holder.get("boot") == me["boot"] != ""
    if not same_kernel and holder.get("host") != me["host"]:
        raise _refusal(path, holder, f"{remedy}; if that process is gone, delete {path}")


def _refusal(path: Path, holder: dict[str, object], remedy: str = "") -> KtbenchError:
    who = "another process"
    if holder:
        who = (
            f"process {holder.get('process')} on {holder.get('host')} "
            f"(since {holder.get('started')})"
        )
    return KtbenchError(f"{path.parent}: {who} is running on this folder: wait for it{remedy}")
