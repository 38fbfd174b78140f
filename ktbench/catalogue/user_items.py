"""Networks and methods of a user, named `path/to/file.py:Name` or `package.module:Name`.

Networks of timm and torchvision are named alike, by the package's own name: `timm:resnet18`.

Asking for such an item runs its code: its file or module is imported. Within `no_code` nothing of
a user's is imported.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from ktbench.catalogue import user_code
from ktbench.records import OWN_ERRORS, KtbenchError
from ktbench.supervision import marked
from ktbench.system.files import MOST_TEXT, read_regular

NOT_LOOKED_AT = "not checked: --no-code runs no code that the matrix names"

_UNSEEN: ContextVar[bool] = ContextVar("_UNSEEN", default=False)


def is_own(name: str) -> bool:
    """Return True for `file.py:Name` and `package.module:Name`."""
    return ":" in name


def own_object(name: str, base: str) -> Any:
    """Import the object that `file.py:Name` or `package.module:Name` names."""
    place, _, attribute = name.rpartition(":")
    module = _own_module(name, base)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise KtbenchError(f"{name}: {place} defines no {attribute}") from error


def own_network(name: str, base: str) -> Callable[..., Any]:
    """Import the class or function that builds a user's network, checked before it is called.

    It is a class that derives from `nn.Module`, or a function defined where the name says: in that
    file or a neighbour, in that module or one below it. So a matrix cannot call arbitrary functions
    (`os:system`). Raises KtbenchError.
    """
    from ktbench.students import _packages

    if _packages.package_of(name) is not None:
        if _UNSEEN.get():
            raise KtbenchError(f"{name}: {NOT_LOOKED_AT}")
        try:
            return _packages.builder(name)
        except ValueError as error:
            raise KtbenchError(f"{name}: {error}") from error
    builder: Callable[..., Any] = own_object(name, base)
    if (reason := _network_objection(builder, name.rpartition(":")[0])) is not None:
        raise KtbenchError(f"{name}: not a network: {reason}")
    return builder


def _network_objection(builder: Any, place: str) -> str | None:
    """Say why an object cannot build a network, or None."""
    from torch import nn

    if isinstance(builder, nn.Module):
        return "it is made already: name its class or a function that returns it"
    while isinstance(builder, functools.partial):
        builder = builder.func
    builder = inspect.unwrap(builder) if callable(builder) else builder
    if isinstance(builder, type):
        return (
            None if issubclass(builder, nn.Module) else "its class does not derive from nn.Module"
        )
    if not inspect.isfunction(builder):
        return "name a class that derives from nn.Module, or a function that returns a network"
    home = builder.__module__ or ""
    within = user_code.PREFIX if place.endswith(".py") else f"{place}."
    if f"{home}.".startswith(within):
        return None
    return f"the function is defined in {home}, not in {place}: name it where it is defined"


def _own_module(name: str, base: str) -> ModuleType:
    import torch

    place = name.rpartition(":")[0]
    if _UNSEEN.get():
        raise KtbenchError(f"{name}: {NOT_LOOKED_AT}")
    if place.partition(".")[0] in sys.stdlib_module_names and not place.endswith(".py"):
        raise KtbenchError(f"{name}: {place} is of Python's own library, which has no networks")
    with torch.random.fork_rng(devices=[]):  # an import may draw numbers, but only once
        return _imported(name, place, base)


def _imported(name: str, place: str, base: str) -> ModuleType:
    subject = f"import of {name}"  # later calls of its code may end a process, too
    if reason := refused(subject):
        raise KtbenchError(f"{name}: cannot import {place}: {reason}")
    try:
        with marked(subject, "importing", name):
            own_file = place.endswith(".py")
            return _own_file(place, base) if own_file else importlib.import_module(place)
    except FileNotFoundError as error:
        if not Path(base, place).is_file():
            raise KtbenchError(f"{name}: no file {Path(base, place)}") from error
        raise KtbenchError(f"{name}: cannot import {place}: {_described(error)}") from error
    except OWN_ERRORS as error:  # whatever a user's file does when it is imported
        raise KtbenchError(f"{name}: cannot import {place}: {_described(error)}") from error


def _described(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def code_digest(name: str, base: str) -> str | None:
    """Digest the file of a user's own item; None for the catalogue's.

    The neighbours that a file imports are included, installed packages are not; of a dotted path
    only the module's file is. No code of a file is run. For a network that a package names it is
    the package's version.
    """
    from ktbench.students import _packages

    if not is_own(name):
        return None
    if (package := _packages.package_of(name)) is not None:
        try:
            return f"{package} {_packages.version(package)}"
        except ValueError as error:
            raise KtbenchError(f"{name}: {error}") from error
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(base, place).resolve()
        if not path.is_file():
            raise KtbenchError(f"{name}: no file {Path(base, place)}")
        return user_code.digest(path)
    if _UNSEEN.get():
        return None
    file = getattr(_own_module(name, base), "__file__", None)
    return hashlib.sha256(read_regular(file, MOST_TEXT)).hexdigest()[:16] if file else None


def _own_file(place: str, base: str) -> ModuleType:
    path = Path(base, place).resolve()
    if not path.is_file():
        raise FileNotFoundError(path)
    return user_code.load(path)


_refused: dict[str, str] = {}


def refuse(name: str, reason: str) -> None:
    """Refuse to run the code of an item again in this process: it ended another one."""
    _refused[name] = reason


def refused(name: str) -> str | None:
    """Say why an item's code is not run, or None."""
    return _refused.get(name)


@contextmanager
def no_code() -> Iterator[None]:
    """Forbid users' code within the block: asking for it raises KtbenchError."""
    token = _UNSEEN.set(True)
    try:
        yield
    finally:
        _UNSEEN.reset(token)


def unseen(name: str) -> bool:
    """Return True for a user's own item within `no_code`."""
    return _UNSEEN.get() and is_own(name)
