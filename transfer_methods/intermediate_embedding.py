"""Intermediate and last layers, for students of another width: stages are embedded first.

Sharma et al., IEEE EDGE 2018, the technique for students of another width; see
`_intermediate.py`. Each stage of a pair passes through a layer of its own: `conv`, a 3x3
convolution to 64 channels, averaged over positions so that sizes may differ; or `dense`, one layer
over the flattened stage. The RMSE between the two embeddings is added to CE and the MSE of logits.

Here the embeddings are first normalised over the batch, which the study does not do. Both sides are
trained to agree, and they agree soonest by shrinking to nothing. As published, all pairs together
fell to 0.8 % of the loss (0.024, beside a cross-entropy of 1.14 and 1.87 for the logits; a shallow
VGG on 2,000 images), so that little but the last layer's term was left. With mean 0 and standard
deviation 1 of each unit over the batch, neither a smaller scale nor a common constant reduces the
term: it falls only where both sides distinguish the samples in the same way. `normalise: sample`
divides each sample's embedding by its length, so that all may still collapse to one direction;
`normalise: none` is as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import ConvEmbedding, DenseEmbedding, Normalise
from ktbench.transfer_methods._contract import Phase, Setting, Update
from ktbench.transfer_methods._intermediate import BaseConfig, Intermediate


@dataclass(frozen=True, slots=True)
class Config(BaseConfig):
    """The study's, normalised: 3x3 convolutions of 64 (dense: 128), both trained, weights 1."""

    embedding: Literal["conv", "dense"] = "conv"
    """The layer on both sides. `dense` grows with the stage: its elements times `units`."""
    units: int | None = None
    """Size of each embedding; 64 for `conv` and 128 for `dense` when not given."""
    trained: Literal["both", "student", "none"] = "both"
    """Embeddings that are trained; with `student` the teacher's is a fixed random projection."""
    normalise: Normalise = "batch"
    """What is made equal before embeddings are compared: each unit's mean and deviation over the
    batch, each sample's length (`sample`), or nothing (`none`, the study)."""

    def __post_init__(self) -> None:
        BaseConfig.__post_init__(self)
        _checks.choice(self, "embedding", ("conv", "dense"))
        if self.units is not None:
            _checks.whole(self, "units", least=1)
        _checks.choice(self, "trained", ("both", "student", "none"))
        _checks.choice(self, "normalise", ("batch", "sample", "none"))


class Method(Intermediate[Config]):
    """ce_weight * CE + weight * sum of RMSE of embedded pairs + logits_weight * MSE of logits."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        for pair in self.adaptors:
            pair.student.requires_grad_(config.trained != "none")
            pair.teacher.requires_grad_(config.trained == "both")

    def adaptor(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
        """Both sides' embeddings."""
        how: Normalise = self.config.normalise
        if self.config.embedding == "conv":
            return ConvEmbedding(student, teacher, units=self.config.units or 64, normalise=how)
        return DenseEmbedding(student, teacher, units=self.config.units or 128, normalise=how)

    @classmethod
    def revision(cls, config: Any) -> int:
        """1 where embeddings are normalised, which earlier settings of the same words did not."""
        return int(config.normalise == "batch")

    def phases(self) -> Sequence[Phase]:
        """One phase; the embeddings that are trained move with the student."""
        return (Phase("train", 1.0, (Update(adaptors=self._moved()),)),)

    def _moved(self) -> tuple[str, ...] | None:
        if self.config.trained == "both":
            return None
        if self.config.trained == "none":
            return ()
        return tuple(f"adaptors.{i}.student." for i in range(len(self.pairs)))
