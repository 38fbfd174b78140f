"""Contains what a network's or a method's own code does to this process: a leaf of the program."""

from ktbench.isolation.contained import Guard, OwnFault, hearing, own_code, seed_all
from ktbench.isolation.handed import claim

__all__ = ["Guard", "OwnFault", "claim", "hearing", "own_code", "seed_all"]
