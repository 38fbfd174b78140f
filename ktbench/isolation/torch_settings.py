"""Settings of torch that a network or a method may change, and how each is put back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules import module as hooks_of_modules
from torch.optim import optimizer as hooks_of_optimisers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ktbench.isolation.settings import Setting

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
