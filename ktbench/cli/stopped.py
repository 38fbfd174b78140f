"""Signals that ask a command to end, raised as an exception."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the program to end; passes by every `except Exception` on its way out."""

    def __init__(self, signal_number: int, advice: str = "") -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
        self.advice = advice


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise Stopped for a signal inside the block; a second signal ends the program at once."""
    # Ignored signals stay ignored: `nohup` lets a run outlive its terminal.
    handled = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    earlier_handlers = {number: signal.signal(number, _stop) for number in handled}
    _asked.clear()
    try:
        yield
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)


_asked: list[int] = []
"""Signals that were raised in the block that runs."""


def raise_again() -> None:
    """Raise Stopped if a signal has asked for it and the exception was lost.

    Python drops what is raised in a destructor or in a library's callback, where a signal may
    come, too. A command that loops for ever calls this in its loop.
    """
    if _asked:
        raise Stopped(_asked[0])


def _stop(number: int, _: Any) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    _asked.append(number)
    raise Stopped(number)
