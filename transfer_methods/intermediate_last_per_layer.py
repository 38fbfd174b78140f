"""Intermediate and last layers, one optimiser per layer: each pair updates its own stage only.

Sharma et al., IEEE EDGE 2018, the study's modified technique; see `_intermediate.py`. Each step,
cross-entropy and logits update all weights; then each pair's RMSE updates the student's stage of
that pair, and the pair's adaptor, by an optimiser of its own. In the study's code, each gradient is
computed after the previous optimiser's update; here all gradients of a step are computed at the
same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from ktbench.transfer_methods._contract import Phase, Scope, Update
from ktbench.transfer_methods._intermediate import AdaptConfig, Adapted

Config = AdaptConfig


class Method(Adapted):
    """`intermediate_last` with one update for CE and logits and one per pair."""

    Config = AdaptConfig

    def phases(self) -> Sequence[Phase]:
        """One phase of 1 + pairs updates."""
        last = ("ce", "logits") if self.config.logits_weight > 0 else ("ce",)
        updates = [Update(last, adaptors=())]
        for i, (name, (_, student)) in enumerate(zip(self.pair_names, self.pairs, strict=True)):
            own = (f"adaptors.{i}.",) if any(True for _ in self.adaptors[i].parameters()) else ()
            updates.append(Update((name,), Scope.only_stage(student), own))
        return (Phase("train", 1.0, tuple(updates)),)
