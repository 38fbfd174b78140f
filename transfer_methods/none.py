"""Cross-entropy alone, without transfer: the baseline, and how teachers are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ktbench.transfer_methods._common import seen
from ktbench.transfer_methods._contract import Batch, Features, Needs, TransferMethod


@dataclass(frozen=True, slots=True)
class Config:
    """A method without settings."""


class Method(TransferMethod):
    """CE; the edge transfer study's *independent* student."""

    Config = Config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Read nothing, so that no teacher is run."""
        return Needs()

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce."""
        return {"ce": batch.supervised(seen(student).logits)}
