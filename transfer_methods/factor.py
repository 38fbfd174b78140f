"""Factor transfer: a paraphraser compresses the teacher's stage; the student learns the result.

Kim et al.: Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018,
equations 1 and 2. In two phases: the paraphraser, an autoencoder of the teacher's stage, is
trained first, while the student trains on the task alone (in the paper, the student waits and has
epochs of its own afterwards); then the student's factors follow the teacher's. Two forms:

`maps`     the loss that the standard CIFAR-100 comparison (Tian et al., ICLR 2020) computes under
           this name with a weight of 200: a map, the mean over channels of the squared factors,
           divided by its norm.
`vectors`  the paper's equation 2: all factors of a sample divided by their norm; its authors use
           a weight of 500.

Differences from the standard comparison. Its paraphraser, like the authors', has no BatchNorm and
decodes by transposed convolutions, which requires a fifth of the ResNet students' learning rate.
Here the paraphraser has BatchNorm, so that it trains at the matrix's one rate. The comparison's
student waits for the paraphraser during 30 epochs before its own 240. Its wide ResNet's sum is read
before BatchNorm and ReLU. A student's stage is translated before it is pooled, which costs more
than afterwards. `compatible: repdistiller` follows the comparison's code, within one budget.
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
    View,
    Weights,
    frozen,
    mean_square,
    seen,
)
from ktbench.transfer_methods._compatible import (
    Compatible,
    check_compatible,
    comparison_pairs,
    comparison_reason,
    is_compatible,
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
    compatible: Compatible = "none"
    """`repdistiller`: paraphraser and stage as the comparison's code has them; see above."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        _checks.number(self, "rate", "initial", above=0)
        if self.initial >= 1:
            raise ValueError(f"initial must be below 1, not {self.initial:g}")
        _checks.choice(self, "form", ("maps", "vectors"))
        check_pairs(self.pairs)
        several = not isinstance(self.pairs, str) and len(self.pairs) > 1
        if self.pairs in ("stage", "uniform") or by_similarity(self.pairs) or several:
            raise ValueError("pairs must be one pair: middle, last or [[teacher, student]]")
        check_compatible(self, "pairs", "form")


class Paraphraser(nn.Module):
    """Three 3x3 convolutions to the factors and three back.

    `plain`: without BatchNorm, and back by transposed convolutions.
    """

    def __init__(self, channels: int, factors: int, *, plain: bool = False) -> None:
        super().__init__()
        back = nn.ConvTranspose2d if plain else nn.Conv2d
        self.encoder = _layers(channels, channels, factors, factors, plain=plain)
        self.decoder = _layers(factors, factors, channels, channels, plain=plain, kind=back)

    def forward(self, teacher: Tensor) -> Tensor:
        """The teacher's map (B, C, H, W) as the factors let it be rebuilt."""
        return self.decoder(self.encoder(teacher))  # type: ignore[no-any-return]


def _layers(*widths: int, plain: bool = False, kind: type[nn.Module] = nn.Conv2d) -> nn.Sequential:
    layers: list[nn.Module] = []
    for ours, theirs in pairwise(widths):
        normed = [] if plain else [BatchNorm(theirs)]
        layers += [kind(ours, theirs, 3, padding=1), *normed, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of factors (B, F, H, W), each sample's divided by its norm."""
    ours, theirs = (functional.normalize(x.flatten(1), dim=1) for x in (student, teacher))
    return functional.l1_loss(ours, theirs)


def _energy(factors: Tensor) -> Tensor:
    """(B, 1, H, W): the mean square over channels."""
    return factors.square().mean(1, keepdim=True)


def _paired(config: Config, setting: Setting) -> tuple[tuple[int, int], ...]:
    if is_compatible(config):
        return comparison_pairs("last", setting)
    return stage_pairs(config.pairs, setting)


class Method(Distillation[Config]):
    """Phase `paraphrase`: CE, and MSE of the rebuilt stage. Phase `transfer`: CE + factors."""

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        assert setting.teacher is not None
        self.pairs = _paired(config, setting)
        ((self.taught, self.learning),) = self.pairs
        theirs = width_of(setting.teacher.stages[self.taught])
        ours = width_of(setting.student.stages[self.learning])
        compatible = is_compatible(config)
        factors = max(1, int(theirs * config.rate) if compatible else round(theirs * config.rate))
        self.paraphraser = Paraphraser(theirs, factors, plain=compatible)
        self.translator = _layers(ours, ours, factors, factors)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages; a pre-activation network's sums for the comparison's loss."""
        return Needs(stages=True, sums=is_compatible(config))

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """A stage that is not there, or maps of a single position."""
        compatible = is_compatible(config)
        if reason := (
            comparison_reason("last", setting)
            if compatible
            else pairs_reason(config.pairs, setting)
        ):
            return reason
        assert setting.teacher is not None
        ((t, s),) = _paired(config, setting)
        sizes = size_of(setting.teacher.stages[t]), size_of(setting.student.stages[s])
        if config.form == "maps" and common_size(*sizes) == (1, 1):
            return "the stages meet at one position, whose map is constant: set form to vectors"
        return None

    def phases(self) -> Sequence[Phase]:
        """The paraphraser, then the translator; the student learns its task throughout.

        As compared, the student waits in the first phase.
        """
        words = Update(("paraphrase",), Scope.nothing(), ("paraphraser.",))
        task = Update(("ce",), Scope(), ())
        first = (words,) if is_compatible(self.config) else (task, words)
        return (
            Phase("paraphrase", self.config.initial, first),
            Phase("transfer", 1.0, (Update(("ce", "transfer"), Scope(), ("translator.",)),)),
        )

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce; paraphrase in its phase, transfer in the other.

        As compared, paraphrase alone in its phase.
        """
        c, ours = self.config, seen(student)
        compatible = is_compatible(c)
        theirs = as_map(self._stage(frozen(teacher), self.taught))
        terms = {"ce": c.ce_weight * batch.supervised(ours.logits)}
        self.paraphraser.train(batch.phase == "paraphrase")
        if batch.phase == "paraphrase":
            words = {"paraphrase": mean_square(self.paraphraser(theirs), theirs)}
            return words if compatible else terms | words
        with torch.no_grad():
            factors = self.paraphraser.encoder(theirs)
        mine, other = self._stage(ours, self.learning), factors
        if compatible:
            translated, other = aligned(self.translator(mine), other)
        else:
            mine, other = aligned(mine, other)
            translated = self.translator(mine)
        if c.form == "maps":
            translated, other = _energy(translated), _energy(other)
        terms["transfer"] = c.weight * factor_loss(translated, other)
        return terms

    def _stage(self, view: View, number: int) -> Tensor:
        return (view.sums if is_compatible(self.config) else view.stages)[number]
