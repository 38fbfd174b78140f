"""What a network looks like without training it: shapes, parameters, FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ktbench import catalogue
from ktbench.records import Item, KtbenchError
from ktbench.supervision import mark
from students._contract import Student
from transfer_methods._contract import Shapes


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
    if reason := catalogue.refused(item.label):
        raise KtbenchError(f"{item.label} cannot be looked at: {reason}")
    mark(item.label, "looking at the network", item.label)
    student = _built(item, num_classes, shape[0], base).eval()
    try:
        with torch.no_grad():
            images = torch.zeros(1, *shape)
            features = student.forward_features(images, preacts=student.has_preacts)
    except Exception as error:  # whatever a network does with images that it was not made for
        size = "×".join(map(str, shape))
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KtbenchError(f"{item.label} cannot take images of {size}: {reason}") from error
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Outline(Shapes.of(features, student.stage_names), parameters)


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

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The initialisers of `torch.nn.init` return their tensor; anything else runs.

        A plain `normal_` runs too: code that draws until a value fits would never end.
        """
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _built(item: Item, num_classes: int, in_channels: int, base: str) -> Student:
    """A network without values, built without moving the global generator."""
    with torch.random.fork_rng(devices=[]), _NoDraws():
        try:
            return catalogue.build_student(
                item.name,
                item.settings,
                num_classes=num_classes,
                in_channels=in_channels,
                base=base,
            )
        except (ZeroDivisionError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KtbenchError(f"{item.label} cannot be built: {reason}") from error
