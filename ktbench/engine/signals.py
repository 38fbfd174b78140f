"""Signals held back while Ray's compiled code runs, which no exception of ours gets through."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ASKING_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """Call signals' handlers when the block is left; keep the block short.

    An exception that a handler raises inside Ray's code becomes a SystemError there. Ray also
    takes SIGTERM for itself when it starts: the handlers from before are put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in _ASKING_TO_END}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    received: list[int] = []

    def hold(number: int, _: Any) -> None:
        received.append(number)

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    except SystemExit as ended:  # Ray's own handler, which it sets while it starts
        if ended.code != signal.SIGTERM:
            raise
        received.append(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
