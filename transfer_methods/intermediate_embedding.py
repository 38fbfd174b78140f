"""Intermediate and last layers for different widths: both sides are embedded, then compared.

Sharma et al., IEEE EDGE 2018, the technique for students of another width; see
`_intermediate.py`. Of each pair both stages go through a layer of their own: `conv`, a 3x3
convolution to 64 channels averaged over positions, so that sizes need not agree; or `dense`, one
layer over the flattened stage. The embeddings' RMSE joins CE and the MSE of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import ConvEmbedding, DenseEmbedding
from ktbench.transfer_methods._contract import Phase, Setting, Update
from ktbench.transfer_methods._intermediate import BaseConfig, Intermediate


@dataclass(frozen=True, slots=True)
class Config(BaseConfig):
    """The study's: 3x3 convolutions of 64 (dense: 128), both trained, all weights 1."""

    embedding: Literal["conv", "dense"] = "conv"
    """The layer on both sides. `dense` grows with the stage: its elements times `units`."""
    units: int | None = None
    """Size of each embedding; 64 for `conv` and 128 for `dense` when not given."""
    trained: Literal["both", "student", "none"] = "both"
    """The embeddings that are trained. Two trained ones can agree by shrinking to nothing, which
    weakens the transfer; with `student` the teacher's is a fixed random projection."""

    def __post_init__(self) -> None:
        BaseConfig.__post_init__(self)
        _checks.choice(self, "embedding", ("conv", "dense"))
        if self.units is not None:
            _checks.whole(self, "units", least=1)
        _checks.choice(self, "trained", ("both", "student", "none"))


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
        if self.config.embedding == "conv":
            return ConvEmbedding(student, teacher, units=self.config.units or 64)
        return DenseEmbedding(student, teacher, units=self.config.units or 128)

    def phases(self) -> Sequence[Phase]:
        """One phase; the embeddings that are trained move with the student."""
        return (Phase("train", 1.0, (Update(adaptors=self._moved()),)),)

    def _moved(self) -> tuple[str, ...] | None:
        if self.config.trained == "both":
            return None
        if self.config.trained == "none":
            return ()
        return tuple(f"adaptors.{i}.student." for i in range(len(self.pairs)))
