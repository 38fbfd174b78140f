"""Functions of the methods on tokens: which of them count, and reasons against a pair.

Padding fills up a batch's shorter sequences. It has no part in any loss: neither its own states,
nor the attention that it pays or is paid. A figure is the mean over a sample's tokens that count,
and then over samples, as papers write their losses for one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ktbench.transfer_methods._common import View
from ktbench.transfer_methods._contract import Setting, Shapes


def counted(student: View, teacher: View) -> Tensor | None:
    """(B, N): true for tokens that count in both networks; None where all do."""
    ours, theirs = student.mask, teacher.mask
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    return ours & theirs


def pairs_of(mask: Tensor | None) -> Tensor | None:
    """(B, N, N): true where both tokens count, the one that attends and the one attended to."""
    return None if mask is None else mask.unsqueeze(2) & mask.unsqueeze(1)


def mean_counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over a sample's values (B, ...) that count, and then over samples.

    The mask (B, ...) has the same shape; a sample of padding alone gives 0.
    """
    if mask is None:
        return values.mean()
    values, mask = values.flatten(1), mask.flatten(1)
    sums = values.masked_fill(~mask, 0).sum(1)
    return (sums / mask.sum(1).clamp(min=1)).mean()


# ---------------------------------------------------------------- reasons against a pair


def tokens_reason(setting: Setting, pairs: Sequence[tuple[int, int]]) -> str | None:
    """Explain in one sentence why the stages of these pairs are no equal tokens, or None."""
    teacher, student = _sides(setting)
    for t, s in pairs:
        shapes = teacher.stages[t], student.stages[s]
        names = f"teacher's stage {teacher.names[t]}", f"student's stage {student.names[s]}"
        if reason := unequal_reason(*shapes, *names):
            return reason
    return _masks_reason(setting, [student.stages[s][0] for _, s in pairs])


def unequal_reason(
    teacher: tuple[int, ...], student: tuple[int, ...], its_name: str, our_name: str
) -> str | None:
    """Explain in one sentence why two outputs are no tokens (N, D) of one number, or None."""
    for shape, name in ((teacher, its_name), (student, our_name)):
        if len(shape) != 2:
            return f"the {name} holds no tokens, and the method compares tokens"
    if teacher[0] != student[0]:
        return (
            f"the {its_name} has {teacher[0]} tokens and the {our_name} {student[0]}, and the "
            "method compares token by token"
        )
    return None


def layers_reason(setting: Setting, pairs: Sequence[tuple[int, int]]) -> str | None:
    """Explain in one sentence why the attention layers of these pairs differ in tokens, or None."""
    teacher, student = _sides(setting)
    for t, s in pairs:
        theirs, ours = teacher.attentions[t][1], student.attentions[s][1]
        if theirs != ours:
            return (
                f"the teacher attends over {theirs} tokens and the student over {ours}, and the "
                "method compares token by token"
            )
    return _masks_reason(setting, [student.attentions[s][1] for _, s in pairs])


def heads_reason(setting: Setting, pairs: Sequence[tuple[int, int]], advice: str) -> str | None:
    """Explain in one sentence why the layers of these pairs have other heads, or None."""
    teacher, student = _sides(setting)
    for t, s in pairs:
        theirs, ours = teacher.attentions[t][0], student.attentions[s][0]
        if theirs != ours:
            return (
                f"the teacher's attention has {theirs} heads and the student's {ours}, and the "
                f"method compares head by head{advice}"
            )
    return None


def _masks_reason(setting: Setting, lengths: Sequence[int]) -> str | None:
    for side, shapes in (("teacher", setting.teacher), ("student", setting.student)):
        assert shapes is not None
        other = next((n for n in lengths if shapes.mask not in (None, n)), None)
        if other is not None:
            return f"the {side}'s mask is for {shapes.mask} tokens, and {other} are compared"
    return None


def as_layers(setting: Setting) -> Setting:
    """Return the setting with attention layers in the place of stages, for rules of pairs.

    They are named `layer1`, `layer2`, and so on.
    """
    teacher, student = _sides(setting)
    return replace(setting, teacher=_layers_of(teacher), student=_layers_of(student))


def _layers_of(shapes: Shapes) -> Shapes:
    names = tuple(f"layer{number + 1}" for number in range(len(shapes.attentions)))
    tokens = tuple((count, heads * dim) for heads, count, dim in shapes.attentions)
    return replace(shapes, stages=tokens, names=names)


def _sides(setting: Setting) -> tuple[Shapes, Shapes]:
    assert setting.teacher is not None
    return setting.teacher, setting.student
