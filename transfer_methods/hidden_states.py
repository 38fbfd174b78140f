"""Hidden states: the student's tokens, mapped to the teacher's width, become the teacher's.

Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020
(arXiv 1909.10351), equation 8 (hidden states of paired layers) and equation 9 (the embedding
layer): mean squared differences after a learnt linear map, one for the layers and one for the
embeddings. Padding has no part. Both maps are learnt for equal widths, too, without a bias; they
begin with the deviation of the authors' code, 0.02.

The paper's whole training learns the layers first and the logits afterwards:

    combined:
      ce_weight: 0
      parts:
        - {method: hidden_states, end: 0.8}
        - {method: attention_maps, end: 0.8}
        - {method: kd, settings: {temperature: 1, weight: 1}, start: 0.8}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, seen, sum_of
from ktbench.transfer_methods._contract import Batch, Features, Needs, Setting
from ktbench.transfer_methods._paired import PairWeights
from ktbench.transfer_methods._pairs import Pairs, pairs_reason, stage_pairs
from ktbench.transfer_methods._tokens import counted, mean_counted, tokens_reason, unequal_reason


@dataclass(frozen=True, slots=True)
class Config(PairWeights):
    """The published settings: all layers and the embeddings, each with weight 1."""

    pairs: Pairs = "uniform"
    """Pairs of a teacher stage and a student stage; see `_pairs.py`."""
    stem_weight: float = 1.0
    """Weight of the embeddings' difference, which is read of the stems; 0 leaves it out."""

    def __post_init__(self) -> None:
        PairWeights.__post_init__(self)
        _checks.number(self, "stem_weight", least=0)


def states_loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of tokens (B, N, D) over those that count by the mask (B, N)."""
    return mean_counted((student - teacher).square().mean(2), mask)


class Method(Distillation[Config]):
    """ce_weight * CE + weight * sum over pairs of MSE(H_s W_h, H_t)
    + stem_weight * MSE(E_s W_e, E_t).
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        teacher, student = setting.teacher, setting.student
        assert teacher is not None
        self.pairs = stage_pairs(config.pairs, setting)
        self.maps = nn.ModuleDict()
        for t, s in self.pairs:
            widths = student.stages[s][1], teacher.stages[t][1]
            if _name(*widths) not in self.maps:
                self.maps[_name(*widths)] = _map(*widths)
        if config.stem_weight:
            assert student.stem is not None
            assert teacher.stem is not None
            self.stem_map = _map(student.stem[1], teacher.stem[1])

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages; stems if embeddings are compared."""
        return Needs(stages=True, stem=config.stem_weight > 0)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """Stages or stems that are not there, or that are no tokens of one number."""
        if reason := pairs_reason(config.pairs, setting):
            return reason
        if reason := tokens_reason(setting, stage_pairs(config.pairs, setting)):
            return reason
        if not config.stem_weight:
            return None
        assert setting.teacher is not None
        theirs, ours = setting.teacher.stem, setting.student.stem
        if theirs is None or ours is None:
            side = "teacher" if theirs is None else "student"
            return f"the {side} shows no stem, which holds embeddings: set stem_weight to 0"
        return unequal_reason(theirs, ours, "teacher's stem", "student's stem")

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, hidden, and stem where embeddings are compared."""
        c, ours, theirs = self.config, seen(student), frozen(teacher)
        mask, states, targets = counted(ours, theirs), ours.stages, theirs.stages
        hidden = []
        for t, s in self.pairs:
            mapped = self.maps[_name(states[s].shape[2], targets[t].shape[2])](states[s])
            hidden.append(states_loss(mapped, targets[t], mask))
        terms = {
            "ce": c.ce_weight * batch.supervised(ours.logits),
            "hidden": c.weight * sum_of(hidden),
        }
        if c.stem_weight:
            stem, target = ours.stem, theirs.stem
            assert stem is not None
            assert target is not None
            terms["stem"] = c.stem_weight * states_loss(self.stem_map(stem), target, mask)
        return terms


def _map(ours: int, theirs: int) -> nn.Linear:
    linear = nn.Linear(ours, theirs, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    return linear


def _name(ours: int, theirs: int) -> str:
    """The name of the map that all layers of these widths share."""
    return f"{ours}to{theirs}"
