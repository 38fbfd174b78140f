"""Isolation of users' networks and methods, whose code must not change this process."""

from ktbench.isolation.contained import Guard, OwnFault, noting_signals, own_code, seed_all
from ktbench.isolation.ownership import claim

__all__ = ["Guard", "OwnFault", "claim", "noting_signals", "own_code", "seed_all"]
