"""Sets a board up for measuring, without internet or pip there, and takes it down again."""

from ktbench.boards.choice import Choice, choose
from ktbench.boards.probe import Look
from ktbench.boards.setup import Ready, Removed, look_at, set_up, take_down
from ktbench.boards.wheels import Wheel, fetch

__all__ = [
    "Choice",
    "Look",
    "Ready",
    "Removed",
    "Wheel",
    "choose",
    "fetch",
    "look_at",
    "set_up",
    "take_down",
]
