"""The contract of a teacher source."""

from __future__ import annotations

from typing import Protocol

from ktbench.students._contract import Features
from ktbench.transfer_methods._contract import Batch, Needs


class TeacherSource(Protocol):
    """A source of a teacher's features: eval mode, no gradient, buffers untouched."""

    @property
    def digest(self) -> str:
        """Digest of the teacher's weights; equal before and after a training."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the teacher's stages, as methods may use them."""

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Return the features that `needs` asks for; others may be missing."""

    def flops(self) -> int:
        """Return the FLOPs of one forward pass of the last batch's shape.

        They do not depend on what the source really ran.
        """

    def seconds(self) -> float:
        """Return the seconds of one forward pass of the last batch's shape.

        They do not depend on what the source really did, so that a cell's cost is what it would
        take alone.
        """
