"""A bag of word pieces: the mean of their vectors, and a linear classifier.

Joulin et al., fastText, arXiv 1607.01759, section 2, without its n-grams: the smallest network that
reads text. Its one stage holds the vectors of the pieces, (B, N, D); padding has no part in the
mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ktbench.students._contract import Features, Student, scaled

VARIANTS = ("embedding_bag",)
DIM = 64


def build(variant: str, *, num_classes: int, vocabulary: int, width: float = 1.0) -> Student:
    """A bag of freshly drawn vectors, 64 wide times `width`."""
    return EmbeddingBag(vocabulary, scaled(DIM, width), num_classes)


class EmbeddingBag(Student):
    """See the file; inputs are ids and mask, each (B, N) whole numbers. Segments are not read."""

    stage_names = ("pieces",)

    def __init__(self, vocabulary: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.head = nn.Linear(dim, num_classes)

    def forward_features(self, inputs: tuple[Tensor, ...], *, preacts: bool = False) -> Features:
        """See `Student.forward_features`; the stage has no activation."""
        ids, mask, *_ = inputs
        pieces: Tensor = self.embedding(ids)  # (B, N, D)
        weights = mask.to(pieces.dtype).unsqueeze(2)
        mean = (pieces * weights).sum(1) / torch.clamp(weights.sum(1), min=1.0)
        before = (pieces,) if preacts else ()
        return Features(self.head(mean), (pieces,), mean, before, mask=mask.bool())
