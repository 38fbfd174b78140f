"""The contract of a teacher source."""

from __future__ import annotations

from typing import Protocol

from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Batch, Needs


class TeacherSource(Protocol):
    """Answers a batch with a teacher's features: eval mode, no gradient, buffers untouched."""

    @property
    def digest(self) -> str:
        """Names the teacher's weights; equal before and after a training (invariant 5)."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Of the teacher's stages, as methods may name them."""

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """The features that `needs` asks for; others may be missing."""

    def flops(self) -> int:
        """Of one forward pass of the last batch's shape, whatever the source really ran."""

    def seconds(self) -> float:
        """Of one forward pass of the last batch's shape, whatever the source really did.

        So a cell's cost is what it would take alone (invariant 6).
        """
