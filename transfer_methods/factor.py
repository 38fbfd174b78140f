"""Factor transfer: the teacher's stage is put in other words, which the student learns to say.

Kim et al.: Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018,
equations 1 and 2. In two phases: the paraphraser, an autoencoder of the teacher's stage, is
trained first, while the student trains on the task alone (as published the student waits, with
epochs of its own afterwards); then the student's factors follow the teacher's. Two forms:

`maps`     what the standard CIFAR-100 comparison (Tian et al., ICLR 2020) computes under this
           name, and what its weight of 200 is for: the squared factors' mean over channels, a
           map, divided by its norm.
`vectors`  the paper's equation 2: all of a sample's factors divided by their norm; its authors
           take a weight of 500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._adapt import (
    BatchNorm,
    aligned,
    as_map,
    common_size,
    size_of,
    width_of,
)
from ktbench.transfer_methods._common import (
    Distillation,
    Weights,
    cross_entropy,
    frozen,
    mean_square,
    seen,
)
from ktbench.transfer_methods._contract import Batch, Features, Needs, Phase, Scope, Setting, Update
from ktbench.transfer_methods._pairs import (
    Pairs,
    by_similarity,
    check_pairs,
    pairs_reason,
    stage_pairs,
)


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """The comparison's settings: weight 200, rate 0.5, the last stage, 30 of 240 epochs."""

    weight: float = 200.0
    """Weight of the mean absolute difference of the normalised factors."""
    rate: float = 0.5
    """Width of the factors as a share of the teacher's width."""
    initial: float = 30 / 240
    """Share of the training in which the paraphraser is trained."""
    form: Literal["maps", "vectors"] = "maps"
    """The form in which factors are compared; see above."""
    pairs: Pairs = "last"
    """One pair of stages; see `_pairs.py`."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.number(self, "rate", "initial", above=0)
        if self.initial >= 1:
            raise ValueError(f"initial must be below 1, not {self.initial:g}")
        _checks.choice(self, "form", ("maps", "vectors"))
        check_pairs(self.pairs)
        several = not isinstance(self.pairs, str) and len(self.pairs) > 1
        if self.pairs == "stage" or by_similarity(self.pairs) or several:
            raise ValueError("pairs must be one pair: middle, last or [[teacher, student]]")


class Paraphraser(nn.Module):
    """Three 3x3 convolutions to the factors and three back."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _layers(channels, channels, factors, factors)
        self.decoder = _layers(factors, factors, channels, channels)

    def forward(self, teacher: Tensor) -> Tensor:
        """The teacher's map (B, C, H, W) as the factors let it be rebuilt."""
        return self.decoder(self.encoder(teacher))  # type: ignore[no-any-return]


def _layers(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ours, theirs in pairwise(widths):
        conv = nn.Conv2d(ours, theirs, 3, padding=1)
        layers += [conv, BatchNorm(theirs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of factors (B, F, H, W), each sample's divided by its norm."""
    ours, theirs = (functional.normalize(x.flatten(1), dim=1) for x in (student, teacher))
    return functional.l1_loss(ours, theirs)


def _energy(factors: Tensor) -> Tensor:
    """(B, 1, H, W): the mean square over channels."""
    return factors.square().mean(1, keepdim=True)


class Method(Distillation[Config]):
    """Phase `paraphrase`: CE, and MSE of the rebuilt stage. Phase `transfer`: CE + factors."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        self.pairs = stage_pairs(config.pairs, setting)
        ((self.taught, self.learning),) = self.pairs
        theirs = width_of(setting.teacher.stages[self.taught])
        ours = width_of(setting.student.stages[self.learning])
        factors = max(1, round(theirs * config.rate))
        self.paraphraser = Paraphraser(theirs, factors)
        self.translator = _layers(ours, ours, factors, factors)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages."""
        return Needs(stages=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or maps of a single position."""
        if reason := pairs_reason(config.pairs, setting):
            return reason
        assert setting.teacher is not None
        ((t, s),) = stage_pairs(config.pairs, setting)
        sizes = size_of(setting.teacher.stages[t]), size_of(setting.student.stages[s])
        if config.form == "maps" and common_size(*sizes) == (1, 1):
            return "the stages meet at one position, whose map is constant: set form to vectors"
        return None

    def phases(self) -> Sequence[Phase]:
        """The student learns its task throughout; the paraphraser, then the translator."""
        task = Update(("ce",), Scope(), ())
        words = Update(("paraphrase",), Scope.nothing(), ("paraphraser.",))
        return (
            Phase("paraphrase", self.config.initial, (task, words)),
            Phase("transfer", 1.0, (Update(("ce", "transfer"), Scope(), ("translator.",)),)),
        )

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce; paraphrase in its phase, transfer in the other."""
        c, ours = self.config, seen(student)
        theirs = as_map(frozen(teacher).stages[self.taught])
        terms = {"ce": c.ce_weight * cross_entropy(ours.logits, batch.labels)}
        self.paraphraser.train(batch.phase == "paraphrase")
        if batch.phase == "paraphrase":
            terms["paraphrase"] = mean_square(self.paraphraser(theirs), theirs)
            return terms
        with torch.no_grad():
            factors = self.paraphraser.encoder(theirs)
        mine, other = aligned(ours.stages[self.learning], factors)
        translated = self.translator(mine)
        if c.form == "maps":
            translated, other = _energy(translated), _energy(other)
        terms["transfer"] = c.weight * factor_loss(translated, other)
        return terms
