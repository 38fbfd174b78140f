"""Knowledge review: each student stage learns from the teacher's same and earlier stages.

Chen et al.: Distilling Knowledge via Knowledge Review, CVPR 2021: the residual review (section
3.2) with attention-based fusion and the hierarchical context loss (section 3.3, figure 4). Stages
are compared after their activation; mdistiller's code reads the teacher's before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import aligned, as_map, conv_norm, pooled, width_of
from ktbench.transfer_methods._common import OneTerm, View, Weights, mean_square, sum_of
from ktbench.transfer_methods._contract import Batch, Needs, Setting
from ktbench.transfer_methods._pairs import stage_pairs


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The published settings for CIFAR-100; weight 5 for resnet32x4 and resnet8x4."""

    width: int = 512
    """Channels that the fused maps have at most; the student's deepest width if that is less."""
    warmup: float = 20 / 240
    """Share of the training over which the transfer grows linearly from 0."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.whole(self, "width", least=1)
        _checks.number(self, "warmup", least=0, most=1)


class Fusion(nn.Module):
    """Brings one student stage and what came from deeper ones together, position by position."""

    def __init__(self, ours: int, middle: int, theirs: int, *, deepest: bool) -> None:
        super().__init__()
        self.enter = conv_norm(ours, middle)
        self.leave = conv_norm(middle, theirs, 3)
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(self, stage: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what the teacher's stage is compared with, what goes on to the earlier stage)."""
        x: Tensor = self.enter(stage)
        if self.attention is not None and deeper is not None:
            size = x.shape[2:]
            # A 1x1 convolution of both side by side is the sum of one of each, and the deeper
            # one's may be taken before its positions are repeated.
            mine, other = self.attention.weight.chunk(2, 1)
            far = functional.interpolate(functional.conv2d(deeper, other), size, mode="nearest")
            gates = functional.conv2d(x, mine, self.attention.bias) + far
            share = gates.sigmoid()  # (B, 2, H, W)
            deeper = functional.interpolate(deeper, size, mode="nearest")
            x = x * share[:, :1] + deeper * share[:, 1:]
        return self.leave(x), x


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square at full size and pooled to 4, 2 and 1 positions a side, each counting half.

    Maps of one shape (B, C, H, W); sizes that are not smaller are left out; weights sum to 1.
    """
    total, weights, weight = mean_square(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        weight /= 2
        size = (side, min(side, student.shape[3]))
        total = total + weight * mean_square(pooled(student, size), pooled(teacher, size))
        weights += weight
    return total / weights


class Method(OneTerm[Config]):
    """ce_weight * CE + warm-up * weight * sum over levels of the context loss.

    The levels are the paired stages (in order, see `_pairs.py`) and the embedding above them.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        assert setting.teacher.embedding is not None
        assert setting.student.embedding is not None
        self.pairs = stage_pairs("stage", setting)
        widths = [
            (width_of(setting.student.stages[s]), width_of(setting.teacher.stages[t]))
            for t, s in self.pairs
        ]
        widths.append((setting.student.embedding, setting.teacher.embedding))
        middle = min(config.width, widths[-1][0])
        self.fusions = nn.ModuleList(
            Fusion(ours, middle, theirs, deepest=i == len(widths) - 1)
            for i, (ours, theirs) in enumerate(widths)
        )

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages and the embedding."""
        return Needs(stages=True, embedding=True)

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over levels, from the deepest to the first, times the warm-up."""
        ours, theirs = student.stages, teacher.stages
        levels = [(ours[s], theirs[t]) for t, s in self.pairs]
        levels.append((student.embedding, teacher.embedding))
        losses, deeper = [], None
        for fusion, (mine, other) in zip(reversed(self.fusions), reversed(levels), strict=True):
            fused, deeper = fusion(as_map(mine), deeper)
            losses.append(context_loss(*aligned(fused, other)))
        warmup = self.config.warmup
        return (min(1.0, batch.progress / warmup) if warmup > 0 else 1.0) * sum_of(losses)
