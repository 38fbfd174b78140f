"""Detects and undoes replacements of functions that every network runs through."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ROOTS = ("torch.nn", "torch.optim", "torch.autograd", "torch.linalg", "torch.fft", "torch.special")
_OURS = ("ktbench",)
_SINGLE = ("torch", "torch.functional", "torch._tensor", "torch._VF", "torch._C._nn", "torch._C")
_PLAIN = ("math", "random", "time", "os", "copy", "numpy", "functools", "itertools")
_COMPILER = ("torch._dynamo", "torch._functorch", "torch._export", "torch.export", "torch.fx")
_PATCHERS = (*_COMPILER, "ray")
"""Libraries that ktbench uses itself and that replace functions on first use: Ray's own `print`
follows the first message of a worker."""
_TORCH = Path(torch.__file__).parent
_PATCHING_FILES = tuple(str(_TORCH / name.split(".")[1]) for name in _COMPILER)
_IMMUTABLE = 1 << 8
"""Py_TPFLAGS_IMMUTABLETYPE."""
_LATE = frozenset({"__slotnames__", "__doc__", "__annotations__", "__signature__"})
"""Names that Python itself may give to a class later."""


class Functions:
    """A snapshot of the functions, methods and classes of torch and of this program.

    Code may be replaced by assigning to a module or a class, by a new attribute that hides an
    inherited one, or inside a function (`__code__`, defaults).
    """

    def __init__(self) -> None:
        _settle_optimisers()
        self._spaces = [_Space(owner) for owner in _owners()]
        hot = (functional, torch.Tensor, nn.Module, torch.autograd, nn.Linear, nn.Conv2d)
        self._hot = [space for space in self._spaces if space.owner in hot]

    def replaced(self, *, all_of_them: bool = True) -> list[str]:
        """Put back what was replaced since; return the names.

        Without `all_of_them` only those that nearly every network runs through are looked at.
        """
        names = []
        for space in self._spaces if all_of_them else self._hot:
            names += space.replaced(bodies=all_of_them)
        return names


class _Space:
    """The callables that one module or class defines."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self._saved = dict(vars(owner))
        values = list(self._saved.values())
        self._functions = [value for value in values if isinstance(value, FunctionType)]
        self._codes = [function.__code__ for function in self._functions]
        self._defaults = [function.__defaults__ for function in self._functions]

    def replaced(self, *, bodies: bool) -> list[str]:
        """Put back what was replaced, with `bodies` also inside functions; return the names."""
        names = []
        if not self._same():
            names += self._put_back()
            self._saved = dict(vars(self.owner))
        if bodies and not self._same_bodies():
            names += self._put_back_bodies()
        return names

    def _same_bodies(self) -> bool:
        codes = [function.__code__ for function in self._functions]
        defaults = [function.__defaults__ for function in self._functions]
        return codes == self._codes and defaults == self._defaults

    def _put_back_bodies(self) -> list[str]:
        names = []
        saved = zip(self._functions, self._codes, self._defaults, strict=True)
        for function, code, defaults in saved:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                function.__code__, function.__defaults__ = code, defaults
                names.append(self._full_name(function.__name__))
        return names

    def _same(self) -> bool:
        try:
            return bool(vars(self.owner) == self._saved)
        except Exception:  # values that cannot be compared: a replaced one, or one that is no code
            return False

    def _put_back(self) -> list[str]:
        now, names = dict(vars(self.owner)), []
        for name, value in self._saved.items():
            if _is_code(value) and now.get(name) is not value and not _is_a_librarys(now.get(name)):
                names.append(self._full_name(name))
                _set(self.owner, name, value)
        for name in now.keys() - self._saved.keys():
            if self._hides(name) and not _is_a_librarys(now[name]):
                names.append(self._full_name(name))
                _delete(self.owner, name)
        return names

    def _hides(self, name: str) -> bool:
        """Return True where a new name hides an inherited or built-in one."""
        if isinstance(self.owner, type):
            inherited = self.owner.__mro__[1:]
            return name not in _LATE and any(_is_code(vars(c).get(name)) for c in inherited)
        return name in vars(builtins) and not name.startswith("__")

    def _full_name(self, name: str) -> str:
        owner = self.owner
        if isinstance(owner, type):
            return f"{owner.__module__}.{owner.__qualname__}.{name}"
        return f"{owner.__name__}.{name}"


@lru_cache(maxsize=1)
def _settle_optimisers() -> None:
    """Let torch wrap each kind of optimiser's `step`, which it does when the first is made."""
    for kind in list(vars(torch.optim).values()):
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            with suppress(Exception):
                torch.optim.Optimizer._patch_step_function(kind.__new__(kind))


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod, property, ModuleType))


def _is_a_librarys(value: Any) -> bool:
    """Return True where a library of `_PATCHERS` put it there, as its first use does."""
    if _below(str(getattr(value, "__module__", "")), _PATCHERS):
        return True
    code = getattr(value, "__code__", None)  # of a wrapper that bears the wrapped one's names
    return code is not None and code.co_filename.startswith(_PATCHING_FILES)


def _set(owner: Any, name: str, value: Any) -> None:
    with suppress(Exception):  # a class that takes no attributes could not have been changed
        type.__setattr__(owner, name, value) if isinstance(owner, type) else vars(
            owner
        ).__setitem__(name, value)


def _delete(owner: Any, name: str) -> None:
    with suppress(Exception):
        type.__delattr__(owner, name) if isinstance(owner, type) else vars(owner).pop(name)


def _owners() -> Iterator[Any]:
    """Give the watched modules, and the classes that they define."""
    seen: set[int] = set()
    yield builtins
    for name, module in sorted(sys.modules.items()):
        if not isinstance(module, ModuleType) or not _watched(name):
            continue
        yield module
        if name in _PLAIN:
            continue
        for value in list(vars(module).values()):
            if isinstance(value, type) and id(value) not in seen and _open(value):
                seen.add(id(value))
                yield value


def _open(kind: type) -> bool:
    """Return True for a class that is watched and takes attributes at all."""
    return not kind.__flags__ & _IMMUTABLE and _watched(str(kind.__module__))


def _watched(name: str) -> bool:
    if name in _SINGLE or name in _PLAIN:
        return True
    return _below(name, _ROOTS) or _below(name, _OURS)


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)
