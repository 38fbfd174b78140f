"""Attention maps: the student's scores between tokens become the teacher's, head by head.

Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020
(arXiv 1909.10351), equation 7: the mean squared difference of the scores before their softmax,
which the paper found to converge faster than those after it. Rows and columns of padding have no
part. The paper's students have as many heads as their teacher, and so must a pair here.

`hidden_states` is the paper's other loss between layers, and shows how the two are combined.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from torch import Tensor

from ktbench.transfer_methods._common import OneTerm, View, sum_of
from ktbench.transfer_methods._contract import Batch, Heads, Needs, Setting
from ktbench.transfer_methods._paired import PairWeights
from ktbench.transfer_methods._pairs import Pairs, by_similarity, pairs_reason, stage_pairs
from ktbench.transfer_methods._tokens import (
    as_layers,
    counted,
    heads_reason,
    layers_reason,
    mean_counted,
    pairs_of,
)


@dataclass(frozen=True, slots=True)
class Config(PairWeights):
    """The published settings: all layers, with weight 1."""

    pairs: Pairs = "uniform"
    """Pairs of a teacher layer and a student layer, `layer1` and so on; see `_pairs.py`. Not by
    similarity, which is that of stages."""

    def __post_init__(self) -> None:
        PairWeights.__post_init__(self)
        if by_similarity(self.pairs):
            raise ValueError("pairs by similarity are of stages, and attention layers are paired")


def scores(heads: Heads) -> Tensor:
    """(B, heads, N, N): each query's product with every key, over the root of the width."""
    products: Tensor = heads.query @ heads.key.transpose(2, 3)
    return products / sqrt(heads.query.shape[3])


def scores_loss(student: Heads, teacher: Heads, mask: Tensor | None) -> Tensor:
    """Mean squared difference of scores, over heads and pairs of tokens that count by (B, N)."""
    squares = (scores(student) - scores(teacher)).square().mean(1)  # (B, N, N)
    return mean_counted(squares, pairs_of(mask))


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * sum over pairs of layers of the MSE of attention scores."""

    Config = Config
    term = "attention"

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.layers = stage_pairs(config.pairs, as_layers(setting))

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Attentions."""
        return Needs(attentions=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A layer that is not there, or other heads or tokens."""
        layers = as_layers(setting)
        if reason := pairs_reason(config.pairs, layers):
            return reason
        pairs = stage_pairs(config.pairs, layers)
        return layers_reason(setting, pairs) or heads_reason(setting, pairs, "")

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs of layers."""
        ours, theirs, mask = student.attentions, teacher.attentions, counted(student, teacher)
        return sum_of([scores_loss(ours[s], theirs[t], mask) for t, s in self.layers])
