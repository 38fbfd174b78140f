"""Activation boundaries: the student's neurons learn on which side of zero to be.

Heo et al.: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons,
AAAI 2019, equation 5 (the alternative loss). In two phases, as published: the boundaries first,
on pre-activations, then the task alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, conv_norm, width_of
from ktbench.transfer_methods._common import Distillation, cross_entropy, frozen, seen, sum_of
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scope, Setting, Update
from ktbench.transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


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

    def __post_init__(self) -> None:
        _checks.number(self, "weight", "margin", "initial", above=0)
        if self.initial >= 1:
            raise ValueError(f"initial must be below 1, not {self.initial:g}")
        check_pairs(self.pairs)


def boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared way to the teacher's side of zero and `margin` beyond; pre-activations of one shape.

    Sum over a sample's elements, mean over samples.
    """
    active = teacher > 0
    short = active * functional.relu(margin - student) + ~active * functional.relu(margin + student)
    return short.square().flatten(1).sum(1).mean()


class Method(Distillation[Config]):
    """Phase `boundary`: weight * sum of 2^(i - n) boundary losses. Phase `task`: CE.

    A 1x1 convolution with batch normalisation connects each student stage to its teacher stage.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.pairs = stage_pairs(config.pairs, setting)
        self.connectors = nn.ModuleList(
            conv_norm(width_of(ours[s]), width_of(theirs[t])) for t, s in self.pairs
        )

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Pre-activations."""
        return Needs(preacts=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        return pairs_reason(config.pairs, setting)

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
            return {"ce": cross_entropy(view.logits, batch.labels)}
        ours, theirs = view.preacts, frozen(teacher).preacts
        losses = []
        for i, ((t, s), connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            mine, other = aligned(ours[s], theirs[t])
            share = 2.0 ** (i + 1 - len(self.pairs))
            losses.append(share * boundary_loss(connector(mine), other, self.config.margin))
        return {"transfer": self.config.weight * sum_of(losses)}
