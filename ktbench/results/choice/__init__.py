"""The file to take from finished results, within limits, and how sure that choice is."""

from ktbench.results.choice.choosing import Choice, best
from ktbench.results.choice.limits import Limits, limits_of

__all__ = ["Choice", "Limits", "best", "limits_of"]
