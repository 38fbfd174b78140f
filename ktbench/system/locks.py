"""Exclusive locks between processes, by the kernel's `flock`."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_POLL_S = 0.5


def lock(handle: int, waiting: Callable[[], None] | None = None) -> None:
    """Wait for a file's exclusive lock, which ends when the file is closed.

    `waiting` is called every half second while another process holds it. Where the file system has
    no locks, nothing is locked.
    """
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if waiting else 0))
        except BlockingIOError:
            assert waiting is not None
            waiting()
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return
