"""Whether a matrix is planned or refused as it should be, whatever it and its data hold."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ktbench.cli.plan import plan_as_json
from ktbench.records import KtbenchError, printable
from ktbench.runner.plan_in_child import plan_here

LONGEST_S = 20
"""Seconds of processor time that a plan may take; six times as many on the clock."""


class TookTooLongError(BaseException):
    """No answer in time; passes by every `except Exception`."""


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError("".join(traceback.format_stack(frame)[-6:]))

    clocks = {signal.SIGALRM: signal.ITIMER_REAL, signal.SIGPROF: signal.ITIMER_PROF}
    before = {number: signal.signal(number, late) for number in clocks}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)  # a busy machine is no fault of a plan
    try:
        yield
    finally:
        for number, clock in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


def trouble(path: Path, *, to_the_end: bool) -> str | None:
    """What is wrong with the way in which a matrix file is planned or refused, or None.

    `to_the_end`: with the estimate, as the command does, which times networks.
    """
    try:
        with _alarm(LONGEST_S):
            planned = plan_here(path, estimated=to_the_end)
            if to_the_end and planned.plan.cells:
                plan_as_json(planned)
    except KtbenchError as error:
        lines = str(error).splitlines()
        if not lines or not all(line.strip() for line in lines) or len(str(error)) > 20_000:
            return f"says nothing, or a book: {str(error)[:300]!r}"
        if str(error) != printable(str(error)):
            return f"control characters: {str(error)!r}"
        return None if to_the_end or all(str(path) in each for each in lines) else f"where? {lines}"
    except TookTooLongError as late:
        return f"over {LONGEST_S} s: {late}"
    except BaseException:
        return traceback.format_exc()[-2000:]
    return None if planned.plan.cells or planned.plan.skips else "a plan of nothing"
