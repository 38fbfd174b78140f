"""Base of the three techniques on intermediate and last layers.

Sharma, Biookaghazadeh, Li, Zhao: Are Existing Knowledge Transfer Techniques Effective for Deep
Learning with Edge Devices?, IEEE EDGE 2018: CE + sum over layer pairs of RMSE + MSE of logits.
Layers of one width are compared directly, as in the study. Where widths differ,

    regressor   a 1x1 convolution takes the student's stage to the teacher's width (FitNets);
    embedding   a 3x3 convolution on both sides gives 64 channels each, averaged over positions
                and normalised over the batch (the study's answer; `intermediate_embedding` has
                its settings, says why they are normalised, and embeds all pairs, those of one
                width too);
    none        the pair is not possible, and is skipped with that reason.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import Adapt, adaptor
from ktbench.transfer_methods._common import (
    Distillation,
    frozen,
    mean_square,
    root_mean_square,
    seen,
)
from ktbench.transfer_methods._contract import Batch, Features, Needs, Setting
from ktbench.transfer_methods._pairs import Pairs, check_pairs, pairs_reason, stage_pairs


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """The study's weights, all 1."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels."""
    weight: float = 1.0
    """Weight of each pair's root mean square."""
    logits_weight: float = 1.0
    """Weight of the squared difference of logits; 0 leaves the last layer out."""
    pairs: Pairs = "stage"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`. The study chooses by
    similarity."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", "logits_weight", least=0)
        _checks.number(self, "weight", above=0)
        check_pairs(self.pairs)


@dataclass(frozen=True, slots=True)
class AdaptConfig(BaseConfig):
    """The study's, with `regressor` in place of its embeddings where widths differ."""

    adapt: Adapt = "regressor"
    """The adaptor between stages of different width: regressor, embedding or none."""

    def __post_init__(self) -> None:
        BaseConfig.__post_init__(self)
        _checks.choice(self, "adapt", ("regressor", "embedding", "none"))


K = TypeVar("K", bound=BaseConfig)


class Intermediate(Distillation[K]):
    """CE, one term per pair of stages, and the logits'; the names are `pair_names`."""

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stages, setting.student.stages
        self.pairs = stage_pairs(config.pairs, setting, same_width=self.same_width(config))
        self.pair_names = tuple(f"rmse_{t}_{s}" for t, s in self.pairs)
        self.adaptors = nn.ModuleList(self.adaptor(ours[s], theirs[t]) for t, s in self.pairs)

    @abstractmethod
    def adaptor(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
        """A module that takes (student stage, teacher stage) to two tensors of one shape."""

    @classmethod
    def same_width(cls, config: Any) -> bool:
        """True if only stages of one width can be compared."""
        return False

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages, and logits unless they weigh nothing."""
        return Needs(stages=True, logits=config.logits_weight > 0)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or widths that nothing adapts."""
        return pairs_reason(config.pairs, setting, same_width=cls.same_width(config))

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, rmse_<teacher stage>_<student stage> for each pair, logits."""
        c, ours, theirs = self.config, seen(student), frozen(teacher)
        terms = {"ce": c.ce_weight * batch.supervised(ours.logits)}
        mine, other = ours.stages, theirs.stages
        for (t, s), name, adapt in zip(self.pairs, self.pair_names, self.adaptors, strict=True):
            terms[name] = c.weight * root_mean_square(*adapt(mine[s], other[t]))
        if c.logits_weight > 0:
            terms["logits"] = c.logits_weight * mean_square(ours.logits, theirs.logits)
        return terms


class Adapted(Intermediate[AdaptConfig]):
    """With `AdaptConfig`: the setting `adapt` says what makes widths equal."""

    def adaptor(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
        """Return the adaptor that `adapt` names, for widths that differ."""
        return adaptor(self.config.adapt, student, teacher)

    @classmethod
    def revision(cls, config: Any) -> int:
        """1 with embeddings, which are normalised since then."""
        return int(config.adapt == "embedding")

    @classmethod
    def same_width(cls, config: Any) -> bool:
        """True if there is no adaptor."""
        return bool(config.adapt == "none")
