"""The child process: it runs one piece of work after the other until its parent hangs up.

    python -m ktbench.supervision.worker CONNECTION MARKS PARENT

The arguments are two file descriptors and the parent's process id.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ktbench.supervision import marks
from ktbench.supervision.ending import Ended
from ktbench.supervision.memory_limit import limit_to_free

TELL_S = 0.1
"""Seconds between two messages of progress."""
_PR_SET_PDEATHSIG = 1
_ending = False


def main() -> None:
    """Serve the parent; ends when it hangs up, dies, or asks to end by SIGTERM."""
    connection_fd, marks_fd, parent = map(int, sys.argv[1:4])
    for descriptor in (connection_fd, marks_fd):
        os.set_inheritable(descriptor, False)
    _end_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is the parent's to hear
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    limit_to_free()
    connection = Connection(connection_fd)
    board = marks.Board(marks_fd)
    lock = threading.Lock()

    def send(message: tuple[str, Any]) -> None:
        with lock:
            connection.send(message)

    marks.attach(board, send)
    with suppress(EOFError, ConnectionError, Ended):
        while not _ending:
            _serve(connection.recv(), board, send)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what libraries do at an exit is not cut short


def _serve(request: Any, board: marks.Board, send: Callable[[tuple[str, Any]], None]) -> None:
    payload, environment, folder, path = request
    _become(environment, folder, path)
    last_message = 0.0

    def report(share: float) -> None:
        nonlocal last_message
        board.write(*_last(board))
        if time.monotonic() - last_message >= TELL_S:
            last_message = time.monotonic()
            send(("share", share))

    board.clear()
    try:
        function, arguments, reports = pickle.loads(payload)
        value = function(*arguments, report) if reports else function(*arguments)
        answer = pickle.dumps(("done", value))
    except Ended:
        raise
    except BaseException as error:  # what a user's code raises, SystemExit and all
        if _ending:
            raise Ended from None
        traceback.print_exc()
        answer = _raised(error)
    send(("answer", answer))


def _last(board: marks.Board) -> tuple[str, str, str]:
    _, last = board.read()
    return last.subject, last.stage, last.what


def _raised(error: BaseException) -> bytes:
    """Pack an error for the parent: the error itself where it can be pickled, else its text."""
    if isinstance(error, Exception):
        with suppress(Exception):
            packed = pickle.dumps(("raised", error))
            pickle.loads(packed)
            return packed
    try:
        text = str(error)
    except Exception:
        text = ""
    return pickle.dumps(("failed", f"{type(error).__name__}: {text}".removesuffix(": ")))


def _become(environment: dict[str, str], folder: str, path: list[str]) -> None:
    """Take over the parent's environment, working directory and module search path."""
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    with suppress(OSError):
        os.chdir(folder)
    if sys.path != path:
        sys.path[:] = path


def _end(*_: Any) -> None:
    global _ending
    _ending = True
    raise Ended


def _end_with(parent: int) -> None:
    """End this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
