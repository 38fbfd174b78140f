"""Hard logits: the student learns the class that the teacher predicts, in place of the label.

Sharma, Biookaghazadeh, Li, Zhao: Are Existing Knowledge Transfer Techniques Effective for Deep
Learning with Edge Devices?, IEEE EDGE 2018; technique *hard logits*. The labels are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import Distillation, frozen, mean_square, seen
from ktbench.transfer_methods._contract import Batch, Features, Needs, Scale
from ktbench.transfer_methods._logits import prepared


@dataclass(frozen=True, slots=True)
class Config:
    """The study uses the loss as it is."""

    weight: float = 1.0
    """Weight of the loss."""
    standardise: bool = False
    """Standardise the student's logits over the classes first (Sun et al., CVPR 2024); the
    teacher's decision stays what it is."""

    def __post_init__(self) -> None:
        _checks.number(self, "weight", above=0)
        _checks.flag(self, "standardise")


def hard_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of one-hot(argmax teacher) minus softmax(student); logits (B, K).

    The mean is over samples and classes.
    """
    decision = functional.one_hot(teacher.argmax(1), teacher.shape[1]).to(student.dtype)
    return mean_square(student.softmax(1), decision)


class Method(Distillation[Config]):
    """weight * MSE(softmax(student), one-hot(argmax(teacher)))."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Logits."""
        return Needs(logits=True)

    @classmethod
    def scale(cls, config: Any) -> Scale | None:
        """There is no cross-entropy."""
        return None

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: hard."""
        ours = prepared(seen(student).logits, self.config.standardise)
        hard = hard_loss(ours, frozen(teacher).logits)
        return {"hard": self.config.weight * hard}
