"""Settings of the process that user code may change, and snapshots that put them back."""

from __future__ import annotations

import gc
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as hooks_of_modules
from torch.optim import optimizer as hooks_of_optimisers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Setting:
    """A setting of the process: what users know it as, its reader and its writer."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    noted: bool = True
    """True where a change is told; torch changes the others itself when it loads late parts."""


class Settings:
    """A snapshot of some settings' values."""

    def __init__(self, settings: tuple[Setting, ...]) -> None:
        self._settings = settings
        self._values = [setting.read() for setting in settings]

    def put_back(self) -> list[str]:
        """Put back what has changed; return the names of those changes that are to be told."""
        if self._same():
            return []
        changed = []
        for setting, value in zip(self._settings, self._values, strict=True):
            if setting.read() != value:
                # What cannot be put back (a folder that has gone) must not stop the others.
                with suppress(Exception):
                    setting.write(value)
                if setting.noted:
                    changed.append(setting.name)
        return changed

    def _same(self) -> bool:
        return [setting.read() for setting in self._settings] == self._values


# ---------------------------------------------------------------- Python's


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


# ---------------------------------------------------------------- torch's

_FLAGS = (
    "cpu_allow_fp16_reduced_precision_reduction",
    "cublas_allow_fp16_accumulation",
    "cudnn_benchmark",
    "cudnn_deterministic",
    "cudnn_enabled",
    "deterministic_fill_uninitialized_memory",
    "math_sdp_allow_fp16_bf16_reduction",
    "mkldnn_deterministic",
    "mkldnn_enabled",
    "nnpack_enabled",
    "warnAlways",
)
"""Pairs of `torch._C._get_*` and `_set_*`; one that a version of torch lacks is left out."""
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
_TINY = sys.float_info.min
_OPEN: list[Any] = []
"""Inference modes entered to end one that was left open; they must not be freed."""


def torch_settings() -> Iterator[Setting]:
    """Give the settings of torch that this version has."""
    yield Setting(
        "the number of threads (torch.set_num_threads)",
        torch.get_num_threads,
        torch.set_num_threads,
    )
    yield Setting(
        "the default type (torch.set_default_dtype)",
        torch.get_default_dtype,
        torch.set_default_dtype,
    )
    yield Setting("the default device (torch.set_default_device)", _device, _set_device)
    yield Setting("a mode of torch that was left open", _modes, _close_modes)
    yield Setting("inference mode", torch.is_inference_mode_enabled, _set_inference)
    yield Setting(
        "gradients (torch.set_grad_enabled)", torch.is_grad_enabled, torch.set_grad_enabled
    )
    yield Setting("anomaly mode", _anomaly, _set_anomaly)
    yield Setting("deterministic algorithms", _deterministic, _set_deterministic)
    yield Setting("autocast", _autocast, _set_autocast)
    yield Setting("denormal numbers (torch.set_flush_denormal)", _flushes, torch.set_flush_denormal)
    yield Setting("the precision of float32", _precision, _set_precision)
    yield Setting("hooks of all modules or optimisers", _hooks, _set_hooks)
    yield Setting("hooks of saved tensors", _saved_hooks, _set_saved_hooks)
    for flag in _FLAGS:
        read = getattr(torch._C, f"_get_{flag}", None)
        write = getattr(torch._C, f"_set_{flag}", None)
        if read is not None and write is not None:
            yield Setting(f"torch's {flag}", read, write)
    for kind in _ATTENTION:
        read = getattr(torch.backends.cuda, f"{kind}_sdp_enabled", None)
        write = getattr(torch.backends.cuda, f"enable_{kind}_sdp", None)
        if read is not None and write is not None:
            yield Setting(f"torch's {kind} attention", read, write)


def _device() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _set_device(value: Any) -> None:
    torch.set_default_device(None if value is None else value.device)


def _modes() -> tuple[int, int]:
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()


def _close_modes(value: tuple[int, int]) -> None:
    functions, dispatches = value
    while torch._C._len_torch_function_stack() > functions:
        top = torch._C._get_function_stack_at(torch._C._len_torch_function_stack() - 1)
        TorchFunctionMode.__exit__(top, None, None, None)  # type: ignore[no-untyped-call]
    while torch._C._len_torch_dispatch_stack() > dispatches:
        mode = torch._C._get_dispatch_stack_at(torch._C._len_torch_dispatch_stack() - 1)
        TorchDispatchMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]


def _set_inference(value: bool) -> None:
    """Enter a mode for good: code that left one open may hold it for as long as it likes."""
    mode = torch.inference_mode(value)
    mode.__enter__()
    _OPEN.append(mode)


def _anomaly() -> tuple[bool, bool]:
    on = torch.is_anomaly_enabled()
    return on, not on or torch.is_anomaly_check_nan_enabled()


def _set_anomaly(value: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(*value)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _autocast() -> tuple[Any, ...]:
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return (
        nesting,
        torch.is_autocast_cache_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
    )


def _set_autocast(value: tuple[Any, ...]) -> None:
    while _autocast()[0] > value[0]:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(value[1])
    for device, (on, kind) in {"cpu": value[2:4], "cuda": value[4:6]}.items():
        torch.set_autocast_enabled(device, on)
        torch.set_autocast_dtype(device, kind)


_OLD_PRECISIONS = ("float32_matmul_precision", "cublas_allow_tf32", "cudnn_allow_tf32")
_PRECISIONS = [
    ("generic", "all"),
    *((place, op) for place in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")),
]


def _precision() -> list[Any]:
    """Read both of torch's ways to set it; the old one fails where they disagree."""
    old: list[Any] = []
    for name in _OLD_PRECISIONS:
        try:
            old.append(getattr(torch._C, f"_get_{name}")())
        except RuntimeError:
            old.append(None)
    return [old, [torch._C._get_fp32_precision_getter(*each) for each in _PRECISIONS]]


def _set_precision(value: list[Any]) -> None:
    for name, old in zip(_OLD_PRECISIONS, value[0], strict=True):
        if old is not None:
            getattr(torch._C, f"_set_{name}")(old)
    for each, new in zip(_PRECISIONS, value[1], strict=True):
        torch._C._set_fp32_precision_setter(*each, new)


def _flushes() -> bool:
    return _TINY * 0.5 == 0.0


_HOOKS = [
    hooks
    for owner in (hooks_of_modules, hooks_of_optimisers)
    for name, hooks in vars(owner).items()
    if name.startswith("_global_") and isinstance(hooks, dict)
]


def _hooks() -> list[int]:
    return [len(hooks) for hooks in _HOOKS]


def _set_hooks(value: list[int]) -> None:
    for hooks, count in zip(_HOOKS, value, strict=True):
        while len(hooks) > count:
            hooks.popitem()  # the last one


def _saved_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _set_saved_hooks(value: Any) -> None:
    while _saved_hooks() not in (None, value):
        torch._C._autograd._pop_saved_tensors_default_hooks()
