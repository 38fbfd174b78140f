"""FitNets: the student's lower layers learn a stage of the teacher, then all learn the task.

Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015; equation 3 (hint), equation 2 (the
second phase's distillation). Sharma et al., IEEE EDGE 2018, technique *FitNets*, takes the root of
the mean square as the hint's distance and plain cross-entropy afterwards, which are the defaults;
that study's second phase moves the layers after the guided stage alone (`second: rest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import Regressor
from ktbench.transfer_methods._common import (
    Distillation,
    frozen,
    root_mean_square,
    seen,
)
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scope, Setting, Update
from ktbench.transfer_methods._logits import prepared, soft_divergence
from ktbench.transfer_methods._pairs import (
    Pairs,
    by_similarity,
    check_pairs,
    pairs_reason,
    stage_pairs,
)


@dataclass(frozen=True, slots=True)
class Config:
    """The edge study's; FitNets' own: distance half_squared, kd_first 4, kd_last 1, temperature 3.

    The paper trains each phase to its end; here both share one budget, as every method does.
    """

    pairs: Pairs = "middle"
    """One pair: the teacher's hint and the student's guided stage; see `_pairs.py`."""
    distance: Literal["rmse", "half_squared"] = "rmse"
    """Distance of hint and guided stage: the root of the mean square, or half the squared norm
    summed over a sample's elements, which is large and wants a small rate or weight."""
    weight: float = 1.0
    """Weight of the hint's distance."""
    hint_until: float = 0.25
    """Share of the training that the hint phase takes."""
    kd_first: float = 0.0
    """Weight of the distillation when the second phase begins; it changes linearly..."""
    kd_last: float = 0.0
    """...to this one at the end. Both 0: cross-entropy alone, and no teacher is run."""
    temperature: float = 3.0
    """Temperature of the distillation."""
    second: Literal["all", "rest"] = "all"
    """Layers that the second phase trains: all (FitNets), or those after the guided stage."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        if self.pairs in ("stage", "uniform") or by_similarity(self.pairs) or self._several:
            raise ValueError("pairs must be one pair: middle, last or [[teacher, student]]")
        _checks.choice(self, "distance", ("rmse", "half_squared"))
        _checks.choice(self, "second", ("all", "rest"))
        _checks.number(self, "weight", "temperature", "hint_until", above=0)
        if self.hint_until >= 1:
            raise ValueError(f"hint_until must be below 1, not {self.hint_until:g}")
        _checks.number(self, "kd_first", "kd_last", least=0)
        _checks.flag(self, "standardise")

    @property
    def _several(self) -> bool:
        return not isinstance(self.pairs, str) and len(self.pairs) > 1

    @property
    def distils(self) -> bool:
        """True if the second phase reads the teacher."""
        return self.kd_first > 0 or self.kd_last > 0


def half_squared(student: Tensor, teacher: Tensor) -> Tensor:
    """1/2 ||teacher - student||^2 over a sample's elements, mean over samples (equation 3)."""
    return 0.5 * (teacher - student).flatten(1).square().sum(1).mean()


class Method(Distillation[Config]):
    """Phase `hint`: distance(regressor(guided), hint). Phase `task`: CE + lambda KL."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        self.pairs = stage_pairs(config.pairs, setting)
        ((self.hint, self.guided),) = self.pairs
        self.regressor = Regressor(
            setting.student.stages[self.guided], setting.teacher.stages[self.hint]
        )

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages; logits if the second phase distils."""
        return Needs(stages=True, logits=config.distils)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        return pairs_reason(config.pairs, setting)

    def phases(self) -> Sequence[Phase]:
        """The hint moves the layers up to the guided stage and the regressor; then all move."""
        hint = Update(("hint",), Scope.upto_stage(self.guided), ("regressor.",))
        rest = self.config.second == "rest"
        task = Update(student=Scope.after_stage(self.guided) if rest else Scope(), adaptors=())
        return (
            Phase("hint", self.config.hint_until, (hint,)),
            Phase("task", 1.0, (task,), teacher=self.config.distils),
        )

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: hint in phase `hint`; ce, and kd where wished, in phase `task`."""
        c, ours = self.config, seen(student)
        if batch.phase == "hint":
            theirs = frozen(teacher).stages[self.hint]
            guided, hint = self.regressor(ours.stages[self.guided], theirs)
            distance = half_squared if c.distance == "half_squared" else root_mean_square
            return {"hint": c.weight * distance(guided, hint)}
        terms = {"ce": batch.supervised(ours.logits)}
        if c.distils:
            targets = prepared(frozen(teacher).logits, c.standardise)
            soft = soft_divergence(prepared(ours.logits, c.standardise), targets, c.temperature)
            terms["kd"] = self._kd_weight(batch.progress) / c.temperature**2 * soft
        return terms

    def _kd_weight(self, progress: float) -> float:
        """lambda of equation 2, whose term has no T^2."""
        c = self.config
        done = min(1.0, max(0.0, (progress - c.hint_until) / (1 - c.hint_until)))
        return c.kd_first + done * (c.kd_last - c.kd_first)
