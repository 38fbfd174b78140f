"""Base of methods that add one term over pairs of stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ktbench.transfer_methods._common import OneTerm, View, Weights
from ktbench.transfer_methods._compatible import (
    Compatible,
    Which,
    check_compatible,
    comparison_pairs,
    comparison_reason,
    is_compatible,
)
from ktbench.transfer_methods._contract import Needs, Setting
from ktbench.transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


@dataclass(frozen=True, slots=True)
class PairWeights(Weights):
    """Two weights and the pairs."""

    pairs: Pairs = "stage"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        check_pairs(self.pairs)


@dataclass(frozen=True, slots=True)
class ComparedWeights(PairWeights):
    """Two weights and the pairs, or those of the CIFAR-100 comparison."""

    compatible: Compatible = "none"
    """`repdistiller`: stages, pairs and loss as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        PairWeights.__post_init__(self)
        check_compatible(self, "pairs")


P = TypeVar("P", bound=PairWeights)


class Paired(OneTerm[P]):
    """ce_weight * CE + weight * a sum over `pairs` of (teacher stage, student stage)."""

    compared: ClassVar[Which] = "all"
    """Pairs that the comparison's code chooses."""

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = self.paired(config, setting)

    @classmethod
    def compatible(cls, config: Any) -> bool:
        """Return True where the comparison's own loss is asked for."""
        return hasattr(config, "compatible") and is_compatible(config)

    @classmethod
    def paired(cls, config: Any, setting: Setting) -> tuple[tuple[int, int], ...]:
        """Return the pairs (teacher stage, student stage) that the settings choose."""
        if cls.compatible(config):
            return comparison_pairs(cls.compared, setting)
        return stage_pairs(config.pairs, setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages; a pre-activation network's sums for the comparison's loss."""
        return Needs(stages=True, sums=cls.compatible(config))

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        if cls.compatible(config):
            return comparison_reason(cls.compared, setting)
        return pairs_reason(config.pairs, setting)

    def maps(self, view: View) -> tuple[Tensor, ...]:
        """Return the stages that are compared, as the comparison's code reads them if so wished."""
        return view.sums if self.compatible(self.config) else view.stages
