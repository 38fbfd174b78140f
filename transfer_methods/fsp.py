"""Flow of the solution procedure: the student reproduces how features change between stages.

Yim et al.: A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2. In two phases, as
published: the flow first, then the task alone.

Differences from the standard comparison (Tian et al., ICLR 2020). Its stated weight of 50 is not
used by its code, whose flow phase has a weight of 1, as here. It reads a wide ResNet's sums before
BatchNorm and ReLU, always uses the stem, and refuses networks whose stems or numbers of stages
differ. Its 30 epochs of flow, at a constant rate, precede the 240 epochs of the task; here both
phases share one budget. `compatible: repdistiller` compares the features that its code compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, width_of
from ktbench.transfer_methods._common import (
    Distillation,
    View,
    frozen,
    mean_square,
    seen,
    sum_of,
)
from ktbench.transfer_methods._compatible import (
    Compatible,
    check_compatible,
    flow_reason,
    is_compatible,
)
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scope, Setting, Update
from ktbench.transfer_methods._pairs import stage_pairs, transitions_reason


@dataclass(frozen=True, slots=True)
class Config:
    """The comparison's settings: weight 1, 30 of 240 epochs for the flow."""

    weight: float = 1.0
    """Weight of the sum over transitions."""
    initial: float = 30 / 240
    """Share of the training that the flow phase takes."""
    compatible: Compatible = "none"
    """`repdistiller`: stem and stages as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        _checks.number(self, "weight", "initial", above=0)
        if self.initial >= 1:
            raise ValueError(f"initial must be below 1, not {self.initial:g}")
        check_compatible(self)


def flow(before: Tensor, after: Tensor) -> Tensor:
    """(B, C1, C2): mean over positions of the product of two stages' channels.

    The larger stage is pooled to the smaller one's size (the paper: by maximum; as in later
    comparisons, by average).
    """
    a, b = aligned(before, after)
    return a.flatten(2) @ b.flatten(2).transpose(1, 2) / (a.shape[2] * a.shape[3])


def flow_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over transitions of the mean squared difference of the flow matrices."""
    ours = [flow(a, b) for a, b in pairwise(student)]
    theirs = [flow(a, b) for a, b in pairwise(teacher)]
    return sum_of([mean_square(s, t) for s, t in zip(ours, theirs, strict=True)])


class Method(Distillation[Config]):
    """Phase `flow`: weight * flow loss up to the last stage. Phase `task`: CE.

    The transitions are those between paired stages (in order, see `_pairs.py`), and from the
    stem where both networks have one of the same width. Widths must agree.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = stage_pairs("stage", setting)
        self.from_stem = _equal_stems(setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages and the stem; a pre-activation network's sums for the comparison's loss."""
        return Needs(stages=True, stem=True, sums=is_compatible(config))

    @classmethod
    def revision(cls, config: Any) -> int:
        """1: the default weight was 50."""
        return 1

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """Other widths, or no transition at all."""
        if is_compatible(config) and (reason := flow_reason(setting)):
            return reason
        return transitions_reason("flow matrices", setting)

    def phases(self) -> Sequence[Phase]:
        """The flow moves everything up to the last stage; then the task moves all."""
        last = Scope.upto_stage(self.pairs[-1][1])
        return (
            Phase("flow", self.config.initial, (Update(("transfer",), last),)),
            Phase("task", teacher=False),
        )

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: transfer in phase `flow`, ce in phase `task`."""
        ours = seen(student)
        if batch.phase != "flow":
            return {"ce": batch.supervised(ours.logits)}
        ways = self._way(ours, 1), self._way(frozen(teacher), 0)
        return {"transfer": self.config.weight * flow_loss(*ways)}

    def _way(self, view: View, side: int) -> list[Tensor]:
        """The stem, where it takes part, and the paired stages of one network."""
        stages = view.sums if is_compatible(self.config) else view.stages
        way = [stages[pair[side]] for pair in self.pairs]
        stem = view.stem if self.from_stem else None
        return way if stem is None else [stem, *way]


def _equal_stems(setting: Setting) -> bool:
    theirs = None if setting.teacher is None else setting.teacher.stem
    ours = setting.student.stem
    return theirs is not None and ours is not None and width_of(theirs) == width_of(ours)
