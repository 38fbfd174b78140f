"""Self-distillation: a network's deepest output teaches exits at its earlier stages.

Zhang et al.: Be Your Own Teacher, ICCV 2019, equation 5. No teacher is run. The exits are trained
with the student and left out of the export. Each exit is smaller than the paper's: the mean over
positions, a layer to the width of the embedding, and a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import as_map, width_of
from ktbench.transfer_methods._common import seen, sum_of
from ktbench.transfer_methods._contract import Batch, Features, Needs, Setting, TransferMethod
from ktbench.transfer_methods._logits import prepared, soft_divergence


@dataclass(frozen=True, slots=True)
class Config:
    """The published settings: weight 0.3, feature weight 0.03, T 3."""

    ce_weight: float = 1.0
    """Weight of the deepest output's cross-entropy with the labels."""
    weight: float = 0.3
    """Weight of each exit's divergence from the deepest output; its cross-entropy has the rest."""
    feature_weight: float = 0.03
    """Weight of each exit's squared distance from the deepest embedding."""
    temperature: float = 3.0
    """T of the divergence."""
    standardise: bool = False
    """Standardise both sides' logits over the classes first (Sun et al., CVPR 2024)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", "feature_weight", least=0)
        _checks.number(self, "weight", least=0, most=1)
        _checks.number(self, "temperature", above=0)
        _checks.flag(self, "standardise")


class Exit(nn.Module):
    """A classifier on one stage alone."""

    def __init__(self, stage: tuple[int, ...], embedding: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width_of(stage), embedding), nn.ReLU())
        self.head = nn.Linear(embedding, classes)

    def forward(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """(embedding (B, D), logits (B, K))."""
        embedding = self.embed(as_map(stage).mean((2, 3)))
        return embedding, self.head(embedding)


class Method(TransferMethod):
    """ce_weight * CE + sum over exits of their CE, T^2 KL(deepest || exit) and distance."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        student = setting.student
        assert student.embedding is not None
        width = student.embedding
        self.exits = nn.ModuleList(
            Exit(stage, width, student.logits) for stage in student.stages[:-1]
        )

    @classmethod
    def revision(cls, config: Any) -> int:
        """1 with standardised logits, whose deviation is the sample's since then."""
        return int(config.standardise)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Read nothing, so that no teacher is run."""
        return Needs()

    @classmethod
    def student_needs(cls, config: Any) -> Needs:
        """Stages, and the deepest embedding and logits."""
        return Needs(logits=True, stages=True, embedding=True)

    @classmethod
    def incompatible(cls, config: Any, setting: Setting) -> str | None:
        """A student with nothing before its last stage, or without an embedding."""
        if len(setting.student.stages) < 2:
            return "self-distillation needs exits before the last stage, and the student has none"
        if setting.student.embedding is None:
            return "the student shows no embedding, and the method compares embeddings"
        return None

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, exits_ce, exits_kd, exits_features."""
        c, view = self.config, seen(student)
        logits, embedding = view.logits, view.embedding.detach()
        target = prepared(logits.detach(), c.standardise)
        labels, soft, distance = list[Tensor](), list[Tensor](), list[Tensor]()
        for stage, way_out in zip(view.stages, self.exits, strict=False):
            early, guess = way_out(stage)
            labels.append(batch.supervised(guess))
            soft.append(soft_divergence(prepared(guess, c.standardise), target, c.temperature))
            distance.append((early - embedding).square().sum(1).mean())
        return {
            "ce": c.ce_weight * batch.supervised(logits),
            "exits_ce": (1 - c.weight) * sum_of(labels),
            "exits_kd": c.weight * sum_of(soft),
            "exits_features": c.feature_weight * sum_of(distance),
        }
