"""Probabilistic transfer: the student reproduces which samples the teacher puts close together.

Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018,
equations 3 to 7, with the cosine kernel (K + 1) / 2.

Difference from the standard comparison (Tian et al., ICLR 2020). Its code adds 1e-7 to each norm
before dividing by it, which changes the loss by about one part in 10^7; nothing is added here.
`compatible: repdistiller` follows the comparison's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods._common import OneTerm, View, Weights
from ktbench.transfer_methods._compatible import Compatible, check_compatible, is_compatible
from ktbench.transfer_methods._contract import Batch, Needs

_TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published setting: weight 30000, as the divergence is a mean over all B^2 pairs."""

    weight: float = 30000.0
    """Weight of the divergence."""
    compatible: Compatible = "none"
    """`repdistiller`: the division by the norm as the comparison's code has it; see above."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        check_compatible(self)


def pkt_loss(student: Tensor, teacher: Tensor, added: float = 0.0) -> Tensor:
    """Mean over (i, j) of p log(p / q), p the teacher's, q the student's; embeddings (B, D).

    p[i, j] is the share of sample j in the similarities of sample i, sample i itself included.
    `added` is what norms have added before embeddings are divided by them.
    """
    q, p = _shares(student, added), _shares(teacher, added)
    return (p * ((p + _TINY) / (q + _TINY)).log()).mean()


def _shares(embedding: Tensor, added: float) -> Tensor:
    rows = functional.normalize(embedding, dim=1)
    if added:
        rows = embedding / (torch.linalg.vector_norm(embedding, dim=1, keepdim=True) + added)
    similarity = (rows @ rows.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True).clamp(min=_TINY)


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * the divergence of neighbourhoods, on embeddings."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """The embedding."""
        return Needs(embedding=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The divergence."""
        added = _TINY if is_compatible(self.config) else 0.0
        return pkt_loss(student.embedding, teacher.embedding, added)
