"""Registry of modules in training: each belongs to one network alone."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from ktbench.records import KtbenchError

_OWNED: dict[int, weakref.ref[Any]] = {}


def claim(network: nn.Module, label: str) -> None:
    """Take a freshly built network; raises KtbenchError where a part of it was taken before.

    A function that returns the same module at each call would have two cells train one network.
    """
    parts = [part for part in network.modules() if _learns(part)]
    for part in parts:
        owned = _OWNED.get(id(part))
        if owned is not None and owned() is part:
            raise KtbenchError(
                f"{label}: a module of it ({type(part).__name__}) belongs to another network "
                "already: build new modules each time it is called"
            )
    for number in [number for number, owned in _OWNED.items() if owned() is None]:
        del _OWNED[number]
    for part in parts:
        _OWNED[id(part)] = weakref.ref(part)


def _learns(part: nn.Module) -> bool:
    """Return True where a training changes the module's own parameters or buffers."""
    trained = any(p.requires_grad for p in part.parameters(recurse=False))
    return trained or any(True for _ in part.buffers(recurse=False))
