"""What a network looks like without training it: shapes, parameters, FLOPs.

Networks are built on torch's meta device, which computes shapes and no values. A user's own
network that cannot be built there is built on the CPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ktbench import catalogue
from ktbench.records import Item, KtbenchError
from students._contract import Student
from transfer_methods._contract import Shapes


@dataclass(frozen=True)
class Outline:
    """A network for one data set."""

    shapes: Shapes
    parameters: int


def try_build(name: str, settings: dict[str, Any], base: str = ".") -> None:
    """Raise KtbenchError when a network cannot be built with these settings."""
    if not catalogue.is_own(name):
        _built(Item(name=name, settings=settings), 10, 3, base, "meta")


def outline(item: Item, num_classes: int, shape: tuple[int, int, int], base: str) -> Outline:
    """Shapes and parameter count for images of `shape` (C, H, W).

    Raises KtbenchError with one sentence when the network cannot take them.
    """
    try:
        return _outlined(item, num_classes, shape, base, "meta")
    except Exception:  # whatever a network does on the meta device, the CPU has the last word
        pass
    try:
        return _outlined(item, num_classes, shape, base, "cpu")
    except KtbenchError:
        raise
    except Exception as error:
        size = "×".join(map(str, shape))
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KtbenchError(f"{item.label} cannot take images of {size}: {reason}") from error


def forward_flops(item: Item, num_classes: int, shape: tuple[int, int, int], base: str) -> int:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        outline(item, num_classes, shape, base)
    return int(counter.get_total_flops())


def _outlined(
    item: Item, num_classes: int, shape: tuple[int, int, int], base: str, device: str
) -> Outline:
    student = _built(item, num_classes, shape[0], base, device).eval()
    with torch.no_grad(), _on(device):
        features = student.forward_features(torch.zeros(1, *shape, device=device))
    if tuple(features.logits.shape) != (1, num_classes):
        raise KtbenchError(
            f"{item.label} gives logits of shape {tuple(features.logits.shape)} for one image and "
            f"{num_classes} classes, not (1, {num_classes})"
        )
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Outline(Shapes.of(features, student.stage_names), parameters)


class _ShapesOnly(TorchFunctionMode):
    """Leaves out what no shape depends on.

    Drawing values, normalising and activating meta tensors would make torch import its compiler,
    which takes longer than all of a plan.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Elementwise functions return their tensor; anything else runs."""
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        if func in _SHAPELESS:
            return args[0]
        return func(*args, **given)


_SHAPELESS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.relu,
    functional.relu,
    functional.relu6,
    functional.gelu,
    functional.dropout,
    functional.batch_norm,
    functional.layer_norm,
}


def _on(device: str) -> AbstractContextManager[Any]:
    return _ShapesOnly() if device == "meta" else nullcontext()


def _built(item: Item, num_classes: int, in_channels: int, base: str, device: str) -> Student:
    """A network that leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]), torch.device(device), _on(device):
        try:
            return catalogue.build_student(
                item.name,
                item.settings,
                num_classes=num_classes,
                in_channels=in_channels,
                base=base,
            )
        except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KtbenchError(f"{item.label} cannot be built: {reason}") from error
