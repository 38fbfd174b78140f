"""Settings of Python and the system that user code may change, and how each is put back."""

from __future__ import annotations

import gc
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from ktbench.isolation.settings import Setting


def python_settings() -> Iterator[Setting]:
    """Give settings of the interpreter."""
    yield Setting("the working folder (os.chdir)", _folder, os.chdir)
    yield Setting("os.environ", _environment, _set_environment, noted=False)
    yield Setting("sys.path", lambda: list(sys.path), _set_path, noted=False)
    yield Setting("warnings filters", lambda: list(warnings.filters), _set_filters, noted=False)
    for stream in ("stdin", "stdout", "stderr"):
        yield _attribute(f"sys.{stream}", stream)
    yield _attribute("sys.excepthook", "excepthook")
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Setting("garbage collection", _collecting, _set_collecting)
    yield Setting("a tracer (sys.settrace)", sys.gettrace, sys.settrace)
    yield Setting("a profiler (sys.setprofile)", sys.getprofile, sys.setprofile)


def _attribute(name: str, attribute: str) -> Setting:
    return Setting(
        name, lambda: getattr(sys, attribute, None), lambda value: setattr(sys, attribute, value)
    )


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a path object takes ten times as long
    except OSError:
        return None


_ENVIRON = os.environ


def _environment() -> tuple[Any, dict[Any, Any]]:
    # Its own mapping, of bytes: decoding every value would take longer than all the rest.
    return id(os.environ), dict(getattr(_ENVIRON, "_data", _ENVIRON))


def _set_environment(value: tuple[Any, dict[Any, Any]]) -> None:
    os.environ = _ENVIRON  # noqa: B003 - a network may have put another object there
    variables = {_text(k): _text(v) for k, v in value[1].items()}
    for name in set(_ENVIRON) - set(variables):
        del _ENVIRON[name]
    _ENVIRON.update(variables)


def _text(value: Any) -> str:
    return os.fsdecode(value)


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


def _set_filters(value: list[Any]) -> None:
    with suppress(AttributeError):  # the interpreter's note that its cache of them is old
        warnings._filters_mutated()  # type: ignore[attr-defined]
    warnings.filters[:] = value  # type: ignore[index]


def _collecting() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _set_collecting(value: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if value[0] else gc.disable)()
    gc.set_threshold(*value[1])


def _set_errors(value: dict[str, Any]) -> None:
    np.seterr(**value)


# ---------------------------------------------------------------- the system's

_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def system_settings() -> Iterator[Setting]:
    """Give settings that are slower to read and matter less."""
    yield Setting("the locale", lambda: locale.setlocale(locale.LC_ALL), _set_locale)
    yield Setting("signal handlers", _handlers, _set_handlers)
    yield Setting("a timer (signal.setitimer)", _timer, _set_timer)
    yield Setting("the umask", _umask, os.umask)
    yield Setting("numpy's error handling (numpy.seterr)", np.geterr, _set_errors)
    if hasattr(os, "sched_setaffinity"):
        yield Setting(
            "the processors in use",
            lambda: os.sched_getaffinity(0),
            lambda value: os.sched_setaffinity(0, value),
        )


def _set_locale(value: str) -> None:
    locale.setlocale(locale.LC_ALL, value)


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(value: list[Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in zip(_SIGNALS, value, strict=True):
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _timer() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _set_timer(value: bool) -> None:
    if not value:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _umask() -> int:
    """Read the umask by setting it: for a moment new files are for their owner alone."""
    value = os.umask(0o077)
    os.umask(value)
    return value
