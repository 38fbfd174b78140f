"""What a network looks like without training it: shapes, parameters, FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ktbench import catalogue
from ktbench.machine import bounded_memory
from ktbench.records import Item, KtbenchError
from students._contract import Student
from transfer_methods._contract import Shapes

_LARGE = 256
"""Pixels a side from which a pass is costly enough to be asked about first."""
_MOST_FLOPS = 5e10
"""Of one image's pass: six times those of a ResNet-50 on photographs of 224 pixels a side."""
_MOST_CALLS = 300_000
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "overflow",
)
"""Words of torch where it is refused memory, or asked for more than can be counted."""


@dataclass(frozen=True)
class Outline:
    """A network for one data set."""

    shapes: Shapes
    parameters: int


def try_build(name: str, settings: dict[str, Any], base: str = ".") -> None:
    """Raise KtbenchError when a network cannot be built with these settings."""
    inner = [settings[key] for key in catalogue.network_settings(name) if settings.get(key)]
    if not any(catalogue.is_own(each) for each in (name, *(catalogue.named(e)[0] for e in inner))):
        _built(Item(name=name, settings=settings), 10, 3, base)


def outline(item: Item, num_classes: int, shape: tuple[int, int, int], base: str) -> Outline:
    """Shapes and parameter count for images of `shape` (C, H, W), from one pass over zeros.

    Raises KtbenchError with one sentence when the network cannot take them.
    """
    if shape[1] * shape[2] > _LARGE**2:
        _refuse_endless(item, num_classes, shape, base)
    student = _built(item, num_classes, shape[0], base).eval()
    try:
        with torch.no_grad(), bounded_memory():
            images = torch.zeros(1, *shape)
            features = student.forward_features(images, preacts=student.has_preacts)
    except Exception as error:  # whatever a network does with images that it was not made for
        size = "×".join(map(str, shape))
        raise KtbenchError(f"{item.label} cannot take images of {size}: {_said(error)}") from error
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Outline(Shapes.of(features, student.stage_names), parameters)


def _refuse_endless(item: Item, num_classes: int, shape: tuple[int, int, int], base: str) -> None:
    """Raise KtbenchError where one image's pass would take minutes, as smaller images tell.

    A network's operations grow with the area of its images; one that takes no smaller ones is let
    through.
    """
    try:
        small = forward_flops(item, num_classes, (shape[0], _LARGE // 4, _LARGE // 4), base)
    except KtbenchError:
        return
    flops = small * shape[1] * shape[2] / (_LARGE // 4) ** 2
    if flops > _MOST_FLOPS:
        size = "×".join(map(str, shape))
        raise KtbenchError(
            f"{item.label} would take about {flops:.1e} FLOPs for one image of {size}, and "
            f"{_MOST_FLOPS:.0e} is the most: make data.image_size or the network smaller"
        )


def forward_flops(item: Item, num_classes: int, shape: tuple[int, int, int], base: str) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        outline(item, num_classes, shape, base)
    return int(counter.get_total_flops())


class _NoDraws(TorchFunctionMode):
    """Leaves weights as memory holds them: no shape depends on them, and drawing them is slow.

    Not torch's meta device: its first pass imports torch's compiler, which takes longer than a
    whole plan does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The initialisers of `torch.nn.init` return their tensor; anything else runs.

        A plain `normal_` runs too: code that draws until a value fits would never end. A network
        whose layers come to no end is stopped on the way, by a KtbenchError.
        """
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise KtbenchError(
                f"a network without end: it takes over {_MOST_CALLS:,} calls of torch to build"
            )
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _built(item: Item, num_classes: int, in_channels: int, base: str) -> Student:
    """A network without values, built without moving the global generator."""
    with torch.random.fork_rng(devices=[]), bounded_memory(), _NoDraws():
        try:
            return catalogue.build_student(
                item.name,
                item.settings,
                num_classes=num_classes,
                in_channels=in_channels,
                base=base,
            )
        except KtbenchError:
            raise
        except Exception as error:  # whatever a builder does with values that it was not made for
            raise KtbenchError(f"{item.label} cannot be built: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An error of torch's in one line, without its advice."""
    text = " ".join(str(error).split())
    if lacks_memory(error):
        return "it takes more memory than half of what is free here"
    return text[:200] or type(error).__name__


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory was refused, or more was asked for than can be counted."""
    said = str(error)
    return isinstance(error, MemoryError | OverflowError) or any(w in said for w in _NO_MEMORY)
