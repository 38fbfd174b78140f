"""Modules that were handed out for training: each belongs to one network alone."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from ktbench.records import KtbenchError

_HANDED: dict[int, weakref.ref[Any]] = {}


def claim(network: nn.Module, label: str) -> None:
    """Take a freshly built network; raises KtbenchError where a part of it was taken before.

    A function that returns the same module at each call would have two cells train one network.
    """
    parts = [part for part in network.modules() if _learns(part)]
    for part in parts:
        taken = _HANDED.get(id(part))
        if taken is not None and taken() is part:
            raise KtbenchError(
                f"{label}: a module of it ({type(part).__name__}) belongs to another network "
                "already: build new modules each time it is called"
            )
    for number in [number for number, taken in _HANDED.items() if taken() is None]:
        del _HANDED[number]
    for part in parts:
        _HANDED[id(part)] = weakref.ref(part)


def _learns(part: nn.Module) -> bool:
    """Whether a training changes what the module itself holds."""
    trained = any(p.requires_grad for p in part.parameters(recurse=False))
    return trained or any(True for _ in part.buffers(recurse=False))
