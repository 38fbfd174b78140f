"""Compares the cost of two ways of working on a machine whose speed varies all the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._claim import Outcome
from ktbench.stats.percentiles import bounded_percentile


@dataclass(frozen=True, slots=True)
class Paired:
    """The extra time of one side over the other, as a share, with its 95 % interval."""

    value: float
    low: float
    high: float
    pairs: int

    def outcome(self, of_what: str, bar: float) -> Outcome:
        """Return whether the sides are as near to each other as claimed, by the estimate itself."""
        figure = f"{self.value:+.2%} of {of_what} ({self.low:+.2%} to {self.high:+.2%})"
        return Outcome(figure, f"within {bar:.0%}", abs(self.value) <= bar)


def compare(one: Callable[[], float], other: Callable[[], float], pairs: int) -> Paired:
    """The median of the ratios of neighbours, measured in turns that change places each time.

    Both of a pair meet the machine in the same state, as far as any two can: what slows it down for
    longer than a pair hits both, what is shorter hits the one as often as the other, and a median
    has no use for the few that it hit hard. Between order statistics lies its interval, whatever
    the noise is distributed like.
    """
    ratios = []
    for number in range(pairs):
        if number % 2:
            below = other()
            above = one()
        else:
            above = one()
            below = other()
        ratios.append(above / below - 1)
    found = bounded_percentile(ratios, 0.5)
    if found is None:
        raise ValueError(f"{pairs} pairs are too few for an interval")
    return Paired(found.value, found.low, found.high, pairs)
