"""A signal that is lost in a destructor still ends a command that loops."""

from __future__ import annotations

import os
import signal
import warnings

import pytest

from ktbench.cli.stopped import Stopped, raise_again, signals_raised


class Interrupted:
    """Is sent a signal while it is destroyed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # the handler runs between two steps of Python
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_is_raised_again() -> None:
    with warnings.catch_warnings(), signals_raised():
        raise_again()
        one = Interrupted()
        del one
        with pytest.raises(Stopped) as stopped:
            raise_again()
    assert stopped.value.exit_code == 143
    with signals_raised():
        raise_again()  # a later command begins anew
