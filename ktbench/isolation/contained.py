"""Containment of a user's own code: one error at most, and an unchanged process."""

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
from ktbench.isolation.settings import Settings, python_settings, system_settings, torch_settings
from ktbench.records import KtbenchError, StorageError, one_line

QUICK = (*torch_settings(), *python_settings())
"""Settings that are compared after every step."""
SLOW = tuple(system_settings())
"""Settings that are compared when a network is built and at the end of each epoch."""
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class OwnFault(KtbenchError):  # noqa: N818 - an event, not a program error
    """An error of any kind that a network's or a method's own code ended with."""


# ---------------------------------------------------------------- true signals


class _NotingHandlers:
    """Signal handlers that note which exceptions come from a true signal."""

    def __init__(self) -> None:
        self.installed = False
        self.raised: BaseException | None = None
        """Exception that the handler of a true signal raised."""


_HANDLERS = _NotingHandlers()


@contextmanager
def noting_signals() -> Iterator[None]:
    """Distinguish a signal to this process from a network's own KeyboardInterrupt or SystemExit.

    Handlers are called as before. Nests; without effect outside of the main thread, where no
    signal is handled.
    """
    if _HANDLERS.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    noting = {number: _noting(handler) for number, handler in before.items()}
    for number, handler in noting.items():
        signal.signal(number, handler)
    _HANDLERS.installed, _HANDLERS.raised = True, None
    try:
        yield
    finally:
        _HANDLERS.installed, _HANDLERS.raised = False, None
        for number, handler in noting.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])


def _noting(handler: Any) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as stop:
            _HANDLERS.raised = stop
            raise

    return handle


# ---------------------------------------------------------------- a user's own code


class own_code:  # noqa: N801 - used as a statement
    """Turns whatever a user's own code raises inside the block into one KtbenchError.

    The exception of a true signal passes, even where that code has caught it.
    """

    def __enter__(self) -> None:
        self._noting = noting_signals()
        self._noting.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        stop = _HANDLERS.raised
        self._noting.__exit__(None, None, None)
        if stop is not None:
            raise stop
        if error is None:
            return False
        # A StorageError would end the run, which a network's or a method's code cannot decide.
        if isinstance(error, KtbenchError) and not isinstance(error, StorageError):
            return False
        raise OwnFault(one_line(error)) from error


def seed_all(seed: int) -> None:
    """Seed every global generator that a network may draw from: torch's, Python's and numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


class Guard:
    """Restores the process's settings and functions after a user's own code has run in it."""

    def __init__(self) -> None:
        self._quick, self._slow = Settings(QUICK), Settings(SLOW)
        self._functions = Functions()
        self._random, self._numpy = random.getstate(), np.random.get_state()

    @contextmanager
    def containing(
        self, tell: Callable[[list[str]], None] = lambda _: None, *, all_of_it: bool = False
    ) -> Iterator[None]:
        """Contain a user's own code: settings that it changed are put back, and passed to `tell`.

        Raises OwnFault for whatever that code raised, and KtbenchError where it has replaced a
        function that other networks run through. `all_of_it` looks at everything that might have
        been changed, which takes as long as a small step.
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
        """Contain code that many cells share: its errors pass unchanged, no setting is told."""
        try:
            yield
        finally:
            self.put_back(all_of_it=all_of_it)
            replaced = self.replaced(all_of_it=all_of_it)
        if replaced:
            raise replaces(replaced)

    def put_back(self, *, all_of_it: bool = True) -> list[str]:
        """Put back the settings that have changed since; return their names."""
        changed = self._quick.put_back()
        return changed + self._slow.put_back() if all_of_it else changed

    def replaced(self, *, all_of_it: bool = True) -> list[str]:
        """Put back the functions that were replaced since; return their names."""
        return self._functions.replaced(all_of_them=all_of_it)

    def __enter__(self) -> Guard:
        """Return itself; there is nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the state of Python's and numpy's global generators."""
        random.setstate(self._random)
        np.random.set_state(self._numpy)


def replaces(names: list[str]) -> KtbenchError:
    """Return the error of code that replaced these functions."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return KtbenchError(
        f"its code puts a function of its own in the place of {names[0]}{more}, which every "
        "network uses: give it a name of its own and call that"
    )
