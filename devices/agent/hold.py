"""One user of a board at a time: a file of the store says whose it is, and until when.

While a task runs, its agent holds the kernel's lock on that file, which ends with the process
however it ends. Between the tasks of one owner the file's date is what keeps others away. The date
is the board's own clock since it started, so that neither a wrong clock nor one that is set again
counts; after a restart nobody holds the board.
"""

import json
import os
import signal
import time
from typing import Any, Dict, Optional

from .protocol import TaskError

NAME = "held.json"
WAIT_S = 10.0
_MAX = 1 << 16


class Hold:
    """A board that is held by a task's owner until `extend` and the end of the process."""

    def __init__(self, handle: int, lease: Dict[str, Any]) -> None:
        self._handle = handle
        self._lease = lease

    def extend(self) -> None:
        """Keep others away for the lease's seconds from now."""
        _write(self._handle, self._lease)

    def release(self) -> None:
        """Let others have the board at once."""
        os.ftruncate(self._handle, 0)


def take(store: str, lease: Dict[str, Any]) -> Hold:
    """Hold the board for `lease` (owner, holder, seconds); TaskError where another owner does.

    An agent of the same owner that is still at work, because the host lost it, is ended: two at
    once would disturb each other.
    """
    handle = os.open(os.path.join(store, NAME), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle, lease["owner"])
        other = _read(handle)
        if other is not None and other.get("owner") != lease["owner"] and _left(other) > 0:
            raise _refusal(other)
        _write(handle, lease)
    except BaseException:
        os.close(handle)  # and with it the lock
        raise
    return Hold(handle, lease)


def _lock(handle: int, owner: str) -> None:
    """Take the kernel's lock on the file, if need be from an agent of the same owner."""
    import fcntl

    end = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            present = _read(handle)
            if present is not None and present.get("owner") != owner:
                raise _refusal(present)
            if present is not None and isinstance(present.get("process"), int):
                _end(present["process"])
        if time.monotonic() > end:
            raise TaskError("an agent that does not end holds the board: restart the board")
        time.sleep(0.05)


def holder(store: str) -> Optional[Dict[str, Any]]:
    """Return the present holder of the board (`holder`, `seconds` left), or None."""
    import fcntl

    try:
        handle = os.open(os.path.join(store, NAME), os.O_RDWR)
    except OSError:
        return None
    try:
        lease = _read(handle)
        if lease is None:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return {"holder": str(lease.get("holder")), "seconds": max(0.0, _left(lease))}
        left = _left(lease)
        return {"holder": str(lease.get("holder")), "seconds": left} if left > 0 else None
    finally:
        os.close(handle)


def _refusal(lease: Dict[str, Any]) -> TaskError:
    seconds = max(1, int(_left(lease)))
    return TaskError(
        "the board is held by %s (for %d s at least): wait, or measure on another board"
        % (lease.get("holder"), seconds)
    )


def _left(lease: Dict[str, Any]) -> float:
    """Seconds that a lease still runs; none after the board was restarted."""
    until = lease.get("until")
    if lease.get("boot") != _boot() or not isinstance(until, (int, float)):
        return 0.0
    return until - time.monotonic()


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def _end(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:  # gone in between
        pass


def _read(handle: int) -> Optional[Dict[str, Any]]:
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        value = json.loads(os.read(handle, _MAX).decode())
    except ValueError:  # empty, or cut short by a loss of power
        return None
    return value if isinstance(value, dict) else None


def _write(handle: int, lease: Dict[str, Any]) -> None:
    value = {
        "owner": lease["owner"],
        "holder": lease["holder"],
        "process": os.getpid(),
        "boot": _boot(),
        "until": time.monotonic() + lease["seconds"],
    }
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(value).encode())
