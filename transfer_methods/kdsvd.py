"""Distillation of singular vectors: the student learns each stage's main directions.

Lee, Kim, Song: Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV
2018, equations 1 to 5: the leading right singular vectors of a stage, the student's aligned to
the teacher's, and radial-basis correlations between those of consecutive stages.

The exact derivative of a singular vector is not finite where singular values are equal. Here the
vectors are the eigenvectors of the channels' Gram matrix, with the derivative of three steps of
power iteration. It is finite everywhere, and close to the exact one where the values differ well.

The sign of a singular vector is arbitrary, but the loss depends on whether the vectors of two
consecutive stages have the same sign. Here the largest entry is positive; after a ReLU, the leading
vector's entries all have one sign, so no vector is negative.

Differences from the standard comparison (Tian et al., ICLR 2020). Its code, like the authors', uses
whatever sign the decomposition returns, which changes between samples, libraries and machines. It
also leaves out VGG's first stage, reads a wide ResNet's sums before BatchNorm and ReLU, and uses
the exact gradient. `compatible: repdistiller` uses the comparison's stages, and the signs of
torch's decomposition on the machine at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import as_map
from ktbench.transfer_methods._common import OneTerm, View, Weights, sum_of
from ktbench.transfer_methods._compatible import (
    Compatible,
    check_compatible,
    comparison_pairs,
    comparison_reason,
    is_compatible,
)
from ktbench.transfer_methods._contract import Batch, Needs, Setting
from ktbench.transfer_methods._pairs import stage_pairs, transitions_reason

_SPARE = 3
_STEPS = 3


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings: one vector per stage, weight 1."""

    vectors: int = 1
    """Singular vectors of each of the teacher's stages."""
    compatible: Compatible = "none"
    """`repdistiller`: stages and signs as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.whole(self, "vectors", least=1)
        check_compatible(self)


def leading(stage: Tensor, count: int, *, given_signs: bool = False) -> tuple[Tensor, Tensor]:
    """(unit vectors (B, C, k), their singular values (B, k)) of a stage; k is at most `count`.

    The largest entry of each vector is positive, or has the sign that torch's singular value
    decomposition gives it. A dead stage has zero vectors.
    """
    rows = as_map(stage).flatten(2)  # (B, C, H W)
    channels, positions = rows.shape[1:]
    wide = channels > positions  # then the positions' Gram matrix is the smaller one
    gram = rows.transpose(1, 2) @ rows if wide else rows @ rows.transpose(1, 2)
    count = min(count, channels, positions)
    with torch.no_grad():
        # A diverged student is found by its loss: the decomposition itself would raise.
        squares, vectors = torch.linalg.eigh(gram.double().nan_to_num(0.0, 0.0, 0.0))
        squares, vectors = (
            side.flip(-1)[..., :count].to(gram.dtype) for side in (squares, vectors)
        )
        exact = functional.normalize(rows @ vectors, dim=1) if wide else vectors  # largest first
        largest = exact.gather(1, exact.abs().argmax(1, keepdim=True))
        exact = exact * largest.sign()
        if given_signs:
            exact = exact * _signs(rows, exact)
    vectors = list[Tensor]()
    for i in range(count):
        before = torch.cat(vectors, 2).detach() if vectors else exact[:, :, :0]
        vector = exact[:, :, i : i + 1]  # (B, C, 1)
        for _ in range(_STEPS):
            vector = _without(vector, before)
            vector = rows @ (rows.transpose(1, 2) @ vector) if wide else gram @ vector
            vector = functional.normalize(_without(vector, before), dim=1)
        vectors.append(vector)
    return torch.cat(vectors, 2), squares.clamp(min=0).sqrt()


def _signs(rows: Tensor, vectors: Tensor) -> Tensor:
    """(B, 1, k): 1, or -1 where torch's right singular vector points against the given one."""
    finite = rows.transpose(1, 2).nan_to_num(0.0, 0.0, 0.0)  # (B, H W, C)
    returned = torch.linalg.svd(finite, full_matrices=False).Vh[:, : vectors.shape[2]]
    along = (returned * vectors.transpose(1, 2)).sum(2)
    return torch.where(along < 0, -1.0, 1.0).to(vectors).unsqueeze(1)


def _without(vector: Tensor, others: Tensor) -> Tensor:
    """(B, C, 1): what of a vector is orthogonal to unit vectors (B, C, k)."""
    return vector - others @ (others.transpose(1, 2) @ vector) if others.shape[2] else vector


def to_match(student: Tensor, teacher: Tensor) -> Tensor:
    """For each of the teacher's vectors (B, C, k) the student's nearest one, with its sign."""
    cosine = student.transpose(1, 2) @ teacher  # (B, k of the student, k)
    best = cosine.detach().abs().argmax(1, keepdim=True)
    sign = cosine.detach().gather(1, best).sign()
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1))
    return chosen * sign


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """(B, C1, C2, k): radial-basis correlation of the entries of two stages' vectors."""
    count = min(first.shape[2], second.shape[2])
    difference = first[:, :, None, :count] - second[:, None, :, :count]
    return (-difference.square() / 8).exp()


def svd_loss(
    student: list[Tensor], teacher: list[Tensor], vectors: int, *, given_signs: bool = False
) -> Tensor:
    """Sum over consecutive stages of the squared difference of correlations, mean over samples.

    Takes B C1 C2 k numbers for each pair of consecutive stages, of C1 and C2 channels.
    """
    ours, theirs = [], []
    for mine, other in zip(student, teacher, strict=True):
        target, values = leading(other, vectors, given_signs=given_signs)
        share = functional.normalize(values, dim=1).unsqueeze(1)
        theirs.append(target * share)
        candidates, _ = leading(mine, vectors + _SPARE, given_signs=given_signs)
        ours.append(to_match(candidates, target) * share)
    steps = zip(pairwise(ours), pairwise(theirs), strict=True)
    squares = [(correlations(*s) - correlations(*t)).square() for s, t in steps]
    return sum_of([square.flatten(1).sum(1).mean() for square in squares])


def _paired(config: Config, setting: Setting) -> tuple[tuple[int, int], ...]:
    if is_compatible(config):
        return comparison_pairs("all", setting)
    return stage_pairs("stage", setting)


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * the loss between the singular vectors of paired stages.

    Stages are paired in order, see `_pairs.py`. Widths must agree.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = _paired(config, setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages; a pre-activation network's sums for the comparison's loss."""
        return Needs(stages=True, sums=is_compatible(config))

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """Other widths, or no two stages."""
        if is_compatible(config) and (reason := comparison_reason("all", setting)):
            return reason
        return transitions_reason("singular vectors", setting, _paired(config, setting))

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The loss over all consecutive pairs."""
        compatible = is_compatible(self.config)
        ours, theirs = ((v.sums if compatible else v.stages) for v in (student, teacher))
        mine = [ours[s] for _, s in self.pairs]
        other = [theirs[t] for t, _ in self.pairs]
        return svd_loss(mine, other, self.config.vectors, given_signs=compatible)
