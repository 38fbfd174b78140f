"""Stages, hint layer and sizes as the standard CIFAR-100 comparison has them.

Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, with its code,
RepDistiller. A method whose loss differs from that code's at its defaults has a setting
`compatible`; `repdistiller` makes it compute what the code computes, on the same weights.

The code lists a network's outputs: first a map, then the stages, then the embedding. The first map
is the stem's output; VGG has no stem, and there it is the first stage. Methods compare what lies
between the first map and the embedding, pair by pair in order; where one network has more, its
last stages are left out. The hint is number 2 of the list, counted from 0. A pre-activation
network's stages are its plain sums, before BatchNorm and ReLU (`View.sums`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from torch import nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._contract import Setting, Shapes

Compatible = Literal["none", "repdistiller"]
Which = Literal["all", "hint", "last"]
"""Pairs that a method of the comparison reads."""

HINT = 2
"""Number of the hint in the list of outputs."""


def is_compatible(config: Any) -> bool:
    """Return True where a method's settings ask for the comparison's own loss."""
    return bool(config.compatible == "repdistiller")


def check_compatible(config: Any, *fixed: str) -> None:
    """Raise ValueError, in one line, for an unknown value or beside one of the `fixed` settings.

    `compatible` itself decides on those, so that they must be at their defaults.
    """
    _checks.choice(config, "compatible", ("none", "repdistiller"))
    if not is_compatible(config):
        return
    for field in fields(config):
        if field.name in fixed and getattr(config, field.name) != field.default:
            raise ValueError(f"compatible: repdistiller decides on {field.name}: leave it out")


def comparison_reason(which: Which, setting: Setting, *, equal: bool = False) -> str | None:
    """Explain in one sentence why the comparison's code cannot pair these networks, or None.

    `equal`: it takes equal numbers of stages.
    """
    assert setting.teacher is not None
    for side, shapes in (("teacher", setting.teacher), ("student", setting.student)):
        if any(len(shape) != 3 for shape in shapes.stages):
            return f"compatible: repdistiller compares maps, and the {side} shows no maps"
        least = HINT if which == "hint" else 1
        if len(shapes.stages) - _first(shapes) < least:
            after = " after the one that stands for a stem" if _first(shapes) else ""
            return f"compatible: repdistiller needs {least} stages{after}, and the {side} has fewer"
    theirs, ours = (
        len(shapes.stages) - _first(shapes) for shapes in (setting.teacher, setting.student)
    )
    if equal and theirs != ours:
        return (
            "compatible: repdistiller takes equal numbers of stages, and the teacher has "
            f"{theirs}, the student {ours}"
        )
    return None


def flow_reason(setting: Setting) -> str | None:
    """Explain in one sentence why the comparison's code finds no common flow, or None.

    It goes through the first map and all stages, whose number and widths must agree.
    """
    assert setting.teacher is not None
    if reason := comparison_reason("all", setting):
        return reason
    theirs, ours = (
        [shape[0] for shape in ([] if shapes.stem is None else [shapes.stem]) + [*shapes.stages]]
        for shapes in (setting.teacher, setting.student)
    )
    if theirs == ours:
        return None
    return (
        "compatible: repdistiller needs first map and stages of equal widths, and the teacher has "
        f"{', '.join(map(str, theirs))}, the student {', '.join(map(str, ours))}"
    )


def comparison_pairs(which: Which, setting: Setting) -> tuple[tuple[int, int], ...]:
    """Return pairs (teacher stage, student stage) as indices from 0."""
    assert setting.teacher is not None
    theirs, ours = _first(setting.teacher), _first(setting.student)
    teacher, student = len(setting.teacher.stages), len(setting.student.stages)
    if which == "last":
        return ((teacher - 1, student - 1),)
    if which == "hint":
        return ((theirs + HINT - 1, ours + HINT - 1),)
    return tuple(zip(range(theirs, teacher), range(ours, student), strict=False))


def _first(shapes: Shapes) -> int:
    """The stage that follows the first map of the comparison's list."""
    return 0 if shapes.stem is not None else 1


def resizing_reason(student: tuple[int, ...], teacher: tuple[int, ...]) -> str | None:
    """Explain why `resizing_conv` does not lead from one map to the other, or None."""
    ours, theirs = student[1], teacher[1]
    if ours >= theirs or 2 * ours == theirs:
        return None
    return f"compatible: repdistiller has no regressor from {ours} to {theirs} pixels a side"


def resizing_conv(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """Return the convolution, with bias, that takes a student's map to the teacher's shape.

    Half the size by stride 2, double by a transposed convolution, else smaller by a kernel that
    the difference gives; 1x1 where sizes agree. Shapes are (C, H, W).
    """
    (ours, height, width), (theirs, to_height, to_width) = student, teacher
    if height == 2 * to_height:
        return nn.Conv2d(ours, theirs, 3, stride=2, padding=1)
    if 2 * height == to_height:
        return nn.ConvTranspose2d(ours, theirs, 4, stride=2, padding=1)
    return nn.Conv2d(ours, theirs, (1 + height - to_height, 1 + width - to_width))
