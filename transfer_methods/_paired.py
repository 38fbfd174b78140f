"""Base of methods that add one term over pairs of stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from ktbench.transfer_methods._common import OneTerm, Weights
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


P = TypeVar("P", bound=PairWeights)


class Paired(OneTerm[P]):
    """ce_weight * CE + weight * a sum over `pairs` of (teacher stage, student stage)."""

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = stage_pairs(config.pairs, setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages."""
        return Needs(stages=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there."""
        return pairs_reason(config.pairs, setting)
