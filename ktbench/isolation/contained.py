"""Runs a user's own code so that whatever it does ends in one error, and the process stays as it
was."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np
import torch

from ktbench.isolation.functions import Functions
from ktbench.isolation.settings import QUICK, SLOW, Settings
from ktbench.records import KtbenchError, StorageError, one_line

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class OwnFault(KtbenchError):  # noqa: N818 - an event, not a program error
    """What a network's or a method's own code ended with, of whatever kind it was."""


# ---------------------------------------------------------------- true signals


class _Ears:
    """The exception that the handler of a true signal raised, and whether anyone listens."""

    def __init__(self) -> None:
        self.listening = False
        self.heard: BaseException | None = None


_EARS = _Ears()


@contextmanager
def hearing() -> Iterator[None]:
    """Tell a signal to this process from a KeyboardInterrupt or SystemExit of a network's own.

    Handlers are called as before. Nests; without effect outside of the main thread, where no
    signal is handled.
    """
    if _EARS.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    ears = {number: _ear(handler) for number, handler in before.items()}
    for number, ear in ears.items():
        signal.signal(number, ear)
    _EARS.listening, _EARS.heard = True, None
    try:
        yield
    finally:
        _EARS.listening, _EARS.heard = False, None
        for number, ear in ears.items():
            if signal.getsignal(number) is ear:
                signal.signal(number, before[number])


def _ear(handler: Any) -> Callable[[int, FrameType | None], None]:
    def hear(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as stop:
            _EARS.heard = stop
            raise

    return hear


# ---------------------------------------------------------------- a user's own code


class own_code:  # noqa: N801 - used as a statement
    """Inside, a user's own code runs: whatever it raises comes out as one KtbenchError.

    What a true signal raises passes, even where that code has caught it.
    """

    def __enter__(self) -> None:
        self._hearing = hearing()
        self._hearing.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        heard = _EARS.heard
        self._hearing.__exit__(None, None, None)
        if heard is not None:
            raise heard
        if error is None or (isinstance(error, KtbenchError) and not _storage(error)):
            return False
        raise OwnFault(one_line(error)) from error


def _storage(error: BaseException) -> bool:
    """Whether an error would end the run: that is no word of a network's or a method's."""
    return isinstance(error, StorageError)


def seed_all(seed: int) -> None:
    """Seed every global generator that a network may draw from: torch's, Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


class Guard:
    """Keeps the process as it was when this was made, whatever code of a user's runs in it."""

    def __init__(self) -> None:
        self._quick, self._slow = Settings(QUICK), Settings(SLOW)
        self._functions = Functions()
        self._random, self._numpy = random.getstate(), np.random.get_state()

    @contextmanager
    def containing(
        self, tell: Callable[[list[str]], None] = lambda _: None, *, all_of_it: bool = False
    ) -> Iterator[None]:
        """Inside, a user's own code runs: settings that it changed are put back afterwards, and
        `tell` hears which.

        Raises OwnFault for whatever that code raised, and KtbenchError where it has put another
        function in the place of one that other networks run through. `all_of_it` looks at
        everything that might have been changed, which takes as long as a small step.
        """
        try:
            with own_code():
                yield
        except KtbenchError as error:
            self.put_back(all_of_it=all_of_it)
            if replaced := self.replaced(all_of_it=all_of_it):
                raise replaces(replaced) from error  # which may be why it failed
            raise
        except BaseException:  # the program is to end
            self.put_back()
            self.replaced()
            raise
        if changed := self.put_back(all_of_it=all_of_it):
            tell(changed)
        if replaced := self.replaced(all_of_it=all_of_it):
            raise replaces(replaced)

    @contextmanager
    def kept(self, *, all_of_it: bool = False) -> Iterator[None]:
        """As `containing`, for code that many cells share: what it raises comes out as it is, and
        no setting that it changes is told."""
        try:
            yield
        finally:
            self.put_back(all_of_it=all_of_it)
            replaced = self.replaced(all_of_it=all_of_it)
        if replaced:
            raise replaces(replaced)

    def put_back(self, *, all_of_it: bool = True) -> list[str]:
        """Put back the settings that have changed since; their names."""
        changed = self._quick.put_back()
        return changed + self._slow.put_back() if all_of_it else changed

    def replaced(self, *, all_of_it: bool = True) -> list[str]:
        """Put back the functions that were replaced since; their names."""
        return self._functions.replaced(all_of_them=all_of_it)

    def __enter__(self) -> Guard:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Python's and numpy's global generators go on from where they were."""
        random.setstate(self._random)
        np.random.set_state(self._numpy)


def replaces(names: list[str]) -> KtbenchError:
    """The error of code that replaced these functions."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return KtbenchError(
        f"its code puts a function of its own in the place of {names[0]}{more}, which every "
        "network uses: give it a name of its own and call that"
    )
