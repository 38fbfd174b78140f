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
    try:
        yield
    finally:
        for number, handler in earlier_handlers.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)
