"""The exception by which a child process is asked to end."""

from __future__ import annotations


class Ended(BaseException):
    """A request of the parent to end; code that catches everything else lets it pass."""
