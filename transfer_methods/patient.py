"""Patient distillation: the student's [CLS] states follow the teacher's, layer by layer.

Sun, Cheng, Gan, Liu: Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019 (arXiv
1908.09355), equation 7: the squared distance of normalised states of the first token, [CLS], summed
over the student's layers but its last. Samples are averaged where the paper sums. States must be of
one width, as nothing maps them.

The whole objective (equation 8) adds softened logits, which is a sum of methods:

    combined: {parts: [{method: kd, settings: {temperature: 10}}, {method: patient, weight: 0.1}]}

The authors' code takes the mean over widths and layers, too: its weight of 100 for 5 layers of
width 768 is 100 / (5 * 768) here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods._common import OneTerm, View, Weights, sum_of
from ktbench.transfer_methods._contract import Batch, Needs, Setting
from ktbench.transfer_methods._pairs import Stage, check_pairs, pairs_reason, stage_pairs
from ktbench.transfer_methods._tokens import tokens_reason


@dataclass(frozen=True, slots=True)
class Config(Weights):
    """Both weights 1, PKD-skip; the paper searches its weight."""

    pairs: Literal["skip", "last"] | tuple[tuple[Stage, Stage], ...] = "skip"
    """`skip`: every so many of the teacher's layers (PKD-skip), `last`: its last ones (PKD-last),
    each without the last layer of all; or a list of [teacher, student]."""

    def __post_init__(self) -> None:
        Weights.__post_init__(self)
        if self.pairs in ("skip", "last"):
            return
        if isinstance(self.pairs, str | dict):
            raise ValueError(f"pairs must be skip, last or a list of pairs, not {self.pairs!r}")
        check_pairs(self.pairs)


def patience_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of the squared distance of normalised [CLS] states (B, N, D)."""
    ours, theirs = (functional.normalize(states[:, 0], dim=1) for states in (student, teacher))
    return (ours - theirs).square().sum(1).mean()


class Method(OneTerm[Config]):
    """ce_weight * CE + weight * sum over pairs of the distance of normalised [CLS] states."""

    Config = Config
    term = "patience"

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.pairs = _paired(config, setting)

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Stages."""
        return Needs(stages=True)

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """Networks without [CLS], without a layer before the last, or of other widths."""
        for side, shapes in (("teacher", setting.teacher), ("student", setting.student)):
            if shapes is not None and shapes.mask is None:
                return (
                    "the method compares the states of [CLS], with which texts begin, and the "
                    f"{side} shows no mask of a text's tokens"
                )
        if isinstance(config.pairs, tuple) and (reason := pairs_reason(config.pairs, setting)):
            return reason
        pairs = _paired(config, setting)
        if not pairs:
            return "the method compares layers before the last, and the networks share none"
        if reason := tokens_reason(setting, pairs):
            return reason
        assert setting.teacher is not None
        for t, s in pairs:
            theirs, ours = setting.teacher.stages[t][1], setting.student.stages[s][1]
            if theirs != ours:
                return (
                    f"the teacher's states are {theirs} wide and the student's {ours}, and the "
                    "method compares them as they are"
                )
        return None

    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """The sum over pairs."""
        ours, theirs = student.stages, teacher.stages
        return sum_of([patience_loss(ours[s], theirs[t]) for t, s in self.pairs])


def _paired(config: Any, setting: Setting) -> tuple[tuple[int, int], ...]:
    """Return pairs (teacher stage, student stage) as indices from 0."""
    if isinstance(config.pairs, tuple):
        return stage_pairs(config.pairs, setting)
    assert setting.teacher is not None
    if config.pairs == "skip":
        return stage_pairs("uniform", setting)[:-1]
    theirs, ours = len(setting.teacher.stages), len(setting.student.stages)
    return tuple((theirs - ours + s, s) for s in range(max(0, ours - theirs), ours - 1))
