"""Pairing of teacher stages with student stages.

A method that compares stages has a setting `pairs`:

`stage`       in order, one to one. Where one network has more stages than the other, those of
              its stages are left out that make sizes agree best over all pairs (the sum of the
              octaves between their numbers of positions is least; of equal choices the later
              stage counts, as it has seen more layers).
`uniform`     for student stage m of M, counted from 1, the teacher's stage m N / M of its N,
              rounded up: of twelve layers every third for a student of four, as in TinyBERT.
`{similarity: {warmup_epochs: N}}`
              for each student stage the teacher stage whose activations have the highest cosine
              similarity with its own (`Setting.similarity`); a tie goes to the earlier stage.
              Without an adaptor only teacher stages of the same width come into question. The
              student that is compared has been trained for N epochs without transfer, from one
              stated seed, so that all seeds of an architecture have the same pairs.
`similarity_untrained`
              the same with the student before training, seed by seed. A random network resembles
              a teacher's early layers whatever its depth: nearly all pairs name the first stage.
              For repeating results that were made so.
`middle`      one pair: each network's middle stage (index n // 2), as FitNets chooses hints.
`last`        one pair: the last stages.
a list        `[[teacher, student], ...]`: each an index from 0 (negative: from the end) or a
              stage's name.

Only `stage` and `uniform` are sure to keep the order. Other pairs may lead from a later student
stage to an earlier teacher stage, or all to one: a report says so (`records.Pairing`), and nothing
is refused, because which stages resemble each other is a finding and shows only once a student is
trained.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from math import inf, log2, prod
from typing import Literal

from ktbench.transfer_methods._adapt import size_of, width_of
from ktbench.transfer_methods._contract import Setting, Shapes

Stage = int | str
Warmup = dict[Literal["similarity"], dict[Literal["warmup_epochs"], int]]
Pairs = (
    Literal["stage", "uniform", "similarity_untrained", "middle", "last"]
    | Warmup
    | tuple[tuple[Stage, Stage], ...]
)

_RULES = ("stage", "uniform", "similarity_untrained", "middle", "last")
_AFTER_WARMUP = "{similarity: {warmup_epochs: N}}"
MOST_WARMUP = 100_000
"""Epochs."""


def check_pairs(pairs: object) -> None:
    """The setting is a rule or a list of pairs; ValueError in one line where it is not."""
    if isinstance(pairs, str):
        if pairs == "similarity":
            raise ValueError(
                f"pairs by similarity need a student that has learnt: write {_AFTER_WARMUP}, or "
                "similarity_untrained for what similarity was"
            )
        if pairs not in _RULES:
            close = difflib.get_close_matches(pairs, _RULES, n=1)
            hint = f": did you mean {close[0]}?" if close else f": known are {', '.join(_RULES)}"
            raise ValueError(f"unknown pairs {pairs!r}{hint}")
        return
    if isinstance(pairs, dict):
        _check_warmup(pairs)
        return
    if not isinstance(pairs, tuple) or not pairs:
        rules = ", ".join((*_RULES, _AFTER_WARMUP))
        raise ValueError(f"pairs must be {rules} or a list of [teacher, student]")
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(map(_is_stage, pair)):
            raise ValueError(f"pairs must hold [teacher stage, student stage], not {pair!r}")
    if len(set(pairs)) != len(pairs):
        raise ValueError("pairs names the same pair twice")


def _check_warmup(pairs: dict[object, object]) -> None:
    inner = pairs.get("similarity")
    if list(pairs) != ["similarity"] or not isinstance(inner, dict):
        raise ValueError(f"pairs must be {_AFTER_WARMUP} where it is a mapping")
    epochs = inner.get("warmup_epochs")
    whole = isinstance(epochs, int) and not isinstance(epochs, bool) and 1 <= epochs <= MOST_WARMUP
    if list(inner) != ["warmup_epochs"] or not whole:
        raise ValueError(
            f"pairs: similarity must say warmup_epochs, a whole number from 1 to {MOST_WARMUP:,}"
        )


def by_similarity(pairs: object) -> bool:
    """Return True where the pairs are chosen by a measured similarity."""
    return pairs == "similarity_untrained" or isinstance(pairs, dict)


def warmup_epochs(pairs: object) -> int | None:
    """Return the epochs of warm-up before stages are compared, 0 for none; None for other rules."""
    if isinstance(pairs, dict):
        return int(pairs["similarity"]["warmup_epochs"])
    return 0 if pairs == "similarity_untrained" else None


def _is_stage(stage: object) -> bool:
    return isinstance(stage, int | str) and not isinstance(stage, bool)


def pairs_reason(pairs: Pairs, setting: Setting, *, same_width: bool = False) -> str | None:
    """Explain in one sentence why these pairs are impossible in this setting; None if they are not.

    `same_width`: nothing adapts the widths, so that those of a pair must be equal.
    """
    teacher, student = _sides(setting)
    if isinstance(pairs, tuple):
        reason = _unknown_reason(pairs, setting)
        if reason:
            return reason
    if not same_width:
        return None
    if by_similarity(pairs):
        return _unmatched(teacher, student)
    return _unequal(stage_pairs(pairs, setting), teacher, student)


def stage_pairs(
    pairs: Pairs, setting: Setting, *, same_width: bool = False
) -> tuple[tuple[int, int], ...]:
    """Return pairs (teacher stage, student stage) as indices from 0.

    While planning there is no similarity yet; the pairs are then some that could be chosen, so
    that a method can be built and looked at.
    """
    teacher, student = _sides(setting)
    if pairs == "middle":
        return ((len(teacher.stages) // 2, len(student.stages) // 2),)
    if pairs == "last":
        return ((len(teacher.stages) - 1, len(student.stages) - 1),)
    if pairs == "stage":
        return _in_order(setting)
    if pairs == "uniform":
        theirs, ours = len(teacher.stages), len(student.stages)
        return tuple((-(-(s + 1) * theirs // ours) - 1, s) for s in range(ours))
    if by_similarity(pairs):
        return _by_similarity(setting, same_width)
    assert isinstance(pairs, tuple)
    return tuple((_index(t, teacher), _index(s, student)) for t, s in pairs)


def _sides(setting: Setting) -> tuple[Shapes, Shapes]:
    assert setting.teacher is not None
    return setting.teacher, setting.student


def transitions_reason(
    what: str, setting: Setting, pairs: Sequence[tuple[int, int]] | None = None
) -> str | None:
    """Explain why stages, paired in order, cannot be compared from one to the next, or None.

    It takes two pairs or more, each of one width; `what` names what is compared.
    """
    teacher, student = _sides(setting)
    pairs = _in_order(setting) if pairs is None else pairs
    for t, s in pairs:
        theirs, ours = width_of(teacher.stages[t]), width_of(student.stages[s])
        if theirs != ours:
            return (
                f"{what} need equal widths, and teacher stage {teacher.names[t]} has {theirs}, "
                f"student stage {student.names[s]} {ours}"
            )
    if len(pairs) < 2:
        return f"{what} need two stages, and the networks share only one"
    return None


def _in_order(setting: Setting) -> tuple[tuple[int, int], ...]:
    teacher, student = _sides(setting)
    if len(teacher.stages) < len(student.stages):
        return tuple(enumerate(_nearest(teacher.stages, student.stages)))
    return tuple((t, s) for s, t in enumerate(_nearest(student.stages, teacher.stages)))


def _nearest(few: Sequence[tuple[int, ...]], many: Sequence[tuple[int, ...]]) -> list[int]:
    """For each of the few stages one of the many, in order, with sizes as near as can be.

    Nearness is the sum of |log2| of the ratios of positions; of equal choices the later counts.
    """
    spare = len(many) - len(few)
    # least[i][k]: what it costs to serve few[i:] when k of the many have been left out before.
    least = [[0.0] * (spare + 1) for _ in range(len(few) + 1)]
    skip = [[False] * (spare + 1) for _ in few]
    for i in reversed(range(len(few))):
        for k in reversed(range(spare + 1)):
            take = round(_distance(few[i], many[i + k]) + least[i + 1][k], 9)
            leave = least[i][k + 1] if k < spare else inf
            skip[i][k] = leave <= take
            least[i][k] = min(take, leave)
    chosen, k = [], 0
    for i in range(len(few)):
        while skip[i][k]:
            k += 1
        chosen.append(i + k)
    return chosen


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return abs(log2(prod(size_of(a)) / prod(size_of(b))))


def _by_similarity(setting: Setting, same_width: bool) -> tuple[tuple[int, int], ...]:
    teacher, student = _sides(setting)
    table = setting.similarity or ((0.0,) * len(student.stages),) * len(teacher.stages)
    pairs = []
    for s, shape in enumerate(student.stages):
        candidates = [
            t
            for t, other in enumerate(teacher.stages)
            if not same_width or width_of(other) == width_of(shape)
        ]
        pairs.append((max(candidates, key=lambda t: table[t][s]), s))
    return tuple(pairs)


def _unmatched(teacher: Shapes, student: Shapes) -> str | None:
    widths = [width_of(shape) for shape in teacher.stages]
    for s, shape in enumerate(student.stages):
        if width_of(shape) not in widths:
            return (
                f"student stage {student.names[s]} has width {width_of(shape)} and no teacher "
                "stage has: set adapt to regressor or embedding"
            )
    return None


def _unequal(pairs: Sequence[tuple[int, int]], teacher: Shapes, student: Shapes) -> str | None:
    for t, s in pairs:
        ours, theirs = width_of(student.stages[s]), width_of(teacher.stages[t])
        if ours != theirs:
            return (
                f"teacher stage {teacher.names[t]} has width {theirs} and student stage "
                f"{student.names[s]} {ours}: set adapt to regressor or embedding"
            )
    return None


def _unknown_reason(pairs: tuple[tuple[Stage, Stage], ...], setting: Setting) -> str | None:
    teacher, student = _sides(setting)
    for t, s in pairs:
        reason = _unknown("teacher", t, teacher) or _unknown("student", s, student)
        if reason:
            return reason
    if len(set(stage_pairs(pairs, setting))) != len(pairs):
        return "pairs names the same pair twice, once by name and once by number"
    return None


def _index(stage: Stage, shapes: Shapes) -> int:
    if isinstance(stage, str):
        return shapes.names.index(stage)
    return stage % len(shapes.stages)


def _unknown(side: str, stage: Stage, shapes: Shapes) -> str | None:
    """Explain that a network has no such stage, with the nearest names; None if it has."""
    if isinstance(stage, int):
        count = len(shapes.stages)
        if -count <= stage < count:
            return None
        return f"the {side} has stages 0 to {count - 1}, and pairs names stage {stage}"
    if stage in shapes.names:
        return None
    close = difflib.get_close_matches(stage, shapes.names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(shapes.names)}"
    return f"the {side} has no stage {stage!r}: {hint}"
