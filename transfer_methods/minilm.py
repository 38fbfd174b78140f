"""MiniLM: the student's last layer relates its tokens as a layer of the teacher does.

Wang et al.: MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers, NeurIPS 2020 (arXiv 2002.10957), equations 4 to 6: the divergence of the attention's
distributions, and of the distributions over products of values. Neither widths nor numbers of
layers need agree. Rows and columns of padding have no part.

MiniLMv2 (Wang et al., Findings of ACL 2021, arXiv 2012.15828, equations 4 and 5) compares relations
of queries, of keys and of values, over heads that are cut anew from the whole width, so that the
networks' own numbers of heads need not agree either:

    minilm: {relations: [query, key, value], heads: 48}
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, Weights, frozen, seen
from ktbench.transfer_methods._contract import Batch, Features, Heads, Needs, Setting
from ktbench.transfer_methods._tokens import counted, heads_reason, layers_reason, mean_counted

RELATIONS = {
    "attention": ("query", "key"),
    "query": ("query", "query"),
    "key": ("key", "key"),
    "value": ("value", "value"),
}
"""By relation: the two of queries, keys and values whose products it is made of."""


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings: attention and values of the last layers, with weight 1."""

    relations: tuple[str, ...] = ("attention", "value")
    """Relations that are compared: `attention` (query-key), `query`, `key`, `value`."""
    heads: int = 0
    """Relation heads into which the whole width is cut anew (MiniLMv2); 0: the networks' own."""
    layer: int = -1
    """Teacher's layer that is compared with the student's last: from 0, or negative from the end.
    MiniLMv2 takes one before the last of large teachers."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        known = ", ".join(RELATIONS)
        if not isinstance(self.relations, tuple) or not self.relations:
            raise ValueError(f"relations must be a list of {known}, not {self.relations!r}")
        for relation in self.relations:
            if relation not in RELATIONS:
                raise ValueError(f"relations must be of {known}, not {relation!r}")
        if len(set(self.relations)) != len(self.relations):
            raise ValueError("relations names the same one twice")
        _checks.whole(self, "heads", least=0)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int):
            raise ValueError(f"layer must be a whole number, not {self.layer!r}")


def cut(part: Tensor, heads: int) -> Tensor:
    """The heads (B, h, N, D) side by side, cut anew: (B, heads, N, h D / heads); 0: as they are."""
    if heads in (0, part.shape[1]):
        return part
    whole = part.transpose(1, 2).flatten(2)  # (B, N, h D)
    return whole.reshape(*whole.shape[:2], heads, -1).transpose(1, 2)


def relation(layer: Heads, name: str, heads: int, mask: Tensor | None) -> Tensor:
    """(B, heads, N, N): logarithms of each token's distribution over the tokens that count."""
    first, second = (cut(getattr(layer, part), heads) for part in RELATIONS[name])
    products = first @ second.transpose(2, 3) / sqrt(first.shape[3])
    if mask is not None:
        # The least number, not minus infinity: a difference of two such logarithms stays finite.
        least = torch.finfo(products.dtype).min
        products = products.masked_fill(~mask[:, None, None], least)
    return functional.log_softmax(products, dim=3)


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(teacher || student) of log-distributions (B, heads, N, N), mean over tokens that count."""
    divergence = (teacher.exp() * (teacher - student)).sum(3).mean(1)  # (B, N)
    return mean_counted(divergence, mask)


class Method(Distillation[Config]):
    """ce_weight * CE + weight * sum over relations of KL(teacher's || student's)."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Attentions."""
        return Needs(attentions=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A layer that is not there, other tokens, or heads that do not fit."""
        teacher, student = setting.teacher, setting.student
        assert teacher is not None
        count = len(teacher.attentions)
        if not -count <= config.layer < count:
            return f"the teacher has attention layers 0 to {count - 1}, and layer is {config.layer}"
        pairs = [(config.layer % count, len(student.attentions) - 1)]
        if reason := layers_reason(setting, pairs):
            return reason
        if not config.heads:
            return heads_reason(setting, pairs, ": set heads to relation heads")
        for side, shape in (
            ("teacher", teacher.attentions[config.layer]),
            ("student", student.attentions[-1]),
        ):
            width = shape[0] * shape[2]
            if width % config.heads:
                return f"{config.heads} relation heads do not divide the {side}'s width of {width}"
        return None

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, and one for each relation."""
        c, ours, theirs = self.config, seen(student), frozen(teacher)
        mask, last, target = counted(ours, theirs), ours.attentions[-1], theirs.attentions[c.layer]
        terms = {"ce": c.ce_weight * batch.supervised(ours.logits)}
        for name in c.relations:
            mine, other = (relation(layer, name, c.heads, mask) for layer in (last, target))
            terms[name] = c.weight * relation_loss(mine, other, mask)
        return terms
