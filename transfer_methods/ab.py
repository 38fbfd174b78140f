"""Activation boundaries: the student learns which of the teacher's neurons are active.

Heo et al.: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons,
AAAI 2019, equation 5 (the alternative loss). In two phases, as published: the boundaries first,
on pre-activations, then the task alone.

Differences from the standard comparison (Tian et al., ICLR 2020). Its code leaves out VGG's first
stage and refuses networks whose numbers of stages differ. It connects stages of different shapes by
the hint's regressor; here, as in the authors' code, a 1x1 convolution and BatchNorm connect them.
While boundaries are learnt, its wide ResNet's last BatchNorm keeps its initial values. Boundaries
are learnt for 30 epochs at a constant rate before the 240 epochs of the task; here both phases
share one budget, so that every method costs the same. `compatible: repdistiller` uses the
comparison's stages, connectors and BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import BatchNorm, aligned, conv_norm, width_of
from ktbench.transfer_methods._common import (
    Distillation,
    View,
    frozen,
    seen,
    sum_of,
)
from ktbench.transfer_methods._compatible import (
    Compatible,
    check_compatible,
    comparison_pairs,
    comparison_reason,
    is_compatible,
    resizing_conv,
    resizing_reason,
)
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scope, Setting, Update
from ktbench.transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs

_BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings: margin 1, weight 3/1000, 30 of 240 epochs for the boundaries."""

    weight: float = 0.003
    """Weight of the sum over pairs; each pair's loss is a sum over elements, mean over samples."""
    margin: float = 1.0
    """Distance from zero beyond which a student's response costs nothing."""
    initial: float = 30 / 240
    """Share of the training that the boundary phase takes."""
    pairs: Pairs = "stage"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`. A pair counts half of the
    next one."""
    compatible: Compatible = "none"
    """`repdistiller`: stages and connectors as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        _checks.number(self, "weight", "margin", "initial", above=0)
        if self.initial >= 1:
            raise ValueError(f"initial must be below 1, not {self.initial:g}")
        check_pairs(self.pairs)
        check_compatible(self, "pairs")


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared way to the teacher's side of zero and `margin` beyond; pre-activations of one shape.

    Sum over a sample's elements, mean over samples.
    """
    active = teacher > 0
    short = active * functional.relu(margin - student) + ~active * functional.relu(margin + student)
    return short.square().flatten(1).sum(1).mean()


def _paired(config: Config, setting: Setting) -> tuple[tuple[int, int], ...]:
    if is_compatible(config):
        return comparison_pairs("all", setting)
    return stage_pairs(config.pairs, setting)


def _connector(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    if width_of(student) == width_of(teacher):
        return nn.Identity()
    return conv_norm(width_of(student), width_of(teacher))


def _compared_connector(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """Identity between stages of one shape, as in the comparison's code."""
    if student == teacher:
        return nn.Identity()
    return nn.Sequential(resizing_conv(student, teacher), BatchNorm(width_of(teacher)))


def _last_at_rest(student: View) -> tuple[Tensor, ...]:
    """Pre-activations; a pre-activation network's last BatchNorm as it was initialised."""
    preacts = student.preacts
    if not student.shows_sums:
        return preacts
    return (*preacts[:-1], student.sums[-1] / sqrt(1 + _BATCH_NORM_EPS))


class Method(Distillation[Config]):
    """Phase `boundary`: weight * sum of 2^(i - n) boundary losses. Phase `task`: CE.

    A 1x1 convolution with batch normalisation connects a student stage to a teacher stage of
    another width; stages of one width are compared as they are.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.pairs = _paired(config, setting)
        connect = _compared_connector if is_compatible(config) else _connector
        self.connectors = nn.ModuleList(connect(ours[s], theirs[t]) for t, s in self.pairs)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Pre-activations."""
        return Needs(preacts=True)

    @classmethod
    def student_needs(cls, config: Any) -> Needs:
        """Pre-activations; a pre-activation network's sums for the comparison's loss."""
        return Needs(logits=True, preacts=True, sums=is_compatible(config))

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or stages that the comparison's code does not connect."""
        if not is_compatible(config):
            return pairs_reason(config.pairs, setting)
        assert setting.teacher is not None
        if reason := comparison_reason("all", setting, equal=True):
            return reason
        theirs, ours = setting.teacher.stages, setting.student.stages
        reasons = (resizing_reason(ours[s], theirs[t]) for t, s in _paired(config, setting))
        return next((reason for reason in reasons if reason), None)

    @classmethod
    def revision(cls, config: Any) -> int:
        """1: stages of one width had a connector too."""
        return 1

    def phases(self) -> Sequence[Phase]:
        """The boundaries move everything up to the last paired stage; then the task moves all."""
        last = Scope.upto_stage(max(s for _, s in self.pairs))
        return (
            Phase("boundary", self.config.initial, (Update(("transfer",), last),)),
            Phase("task", 1.0, (Update(adaptors=()),), teacher=False),
        )

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: transfer in phase `boundary`, ce in phase `task`."""
        view = seen(student)
        if batch.phase != "boundary":
            return {"ce": batch.supervised(view.logits)}
        compatible = is_compatible(self.config)
        ours = _last_at_rest(view) if compatible else view.preacts
        theirs = frozen(teacher).preacts
        losses = []
        for i, ((t, s), connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            mine, other = ours[s], theirs[t]
            if not compatible:
                mine, other = aligned(mine, other)
            share = 2.0 ** (i + 1 - len(self.pairs))
            losses.append(share * boundary_loss(connector(mine), other, self.config.margin))
        return {"transfer": self.config.weight * sum_of(losses)}
