"""Intermediate and last layers, one optimiser: every loss term updates all weights.

Sharma et al., IEEE EDGE 2018, technique *intermediate + last*; see `_intermediate.py`.
"""

from __future__ import annotations

from ktbench.transfer_methods._intermediate import AdaptConfig, Adapted

Config = AdaptConfig


class Method(Adapted):
    """ce_weight * CE + weight * sum of RMSE over pairs + logits_weight * MSE of logits."""

    Config = AdaptConfig
