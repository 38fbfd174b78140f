"""Finds which part of a job ended its process, so that the other parts can go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ktbench.engine.contract import Engine, Job, Lost, Outcome, Report

MOST_DEATHS = 2
"""Deaths of a part, the last of them alone, with no progress in between, after which it fails."""
MOST_KILLS = 20
"""The same limit for processes that were killed from outside, which is not the part's fault."""
DEATHS_IN_ALL = 20
"""Deaths of a part after which it fails, whatever progress it made in between."""

Part = TypeVar("Part")


@dataclass
class Narrowing:
    """Decides which parts of a job are run again after its process died.

    `name` names a part; `progress` gives a value that changes whenever work of a part was saved.
    """

    progress: Callable[[str], Any] = lambda _: None
    _deaths: Counter[str] = field(default_factory=Counter)
    _in_all: Counter[str] = field(default_factory=Counter)
    _reached: dict[str, Any] = field(default_factory=dict)

    def again(self, names: Sequence[str], lost: Lost) -> list[list[int]]:
        """Return the positions of the parts to run again, in groups; none when the part has failed.

        The part that was marked is run alone, or else a half at a time; a single one again, as
        its process may have been killed from outside, but not for ever.
        """
        if len(names) == 1:
            self._count(names[0], lost)
            return [] if self._failed(names[0], lost) else [[0]]
        if lost.mark.subject in names:
            self._count(lost.mark.subject, lost)
            suspect = list(names).index(lost.mark.subject)
            return [[suspect], [n for n in range(len(names)) if n != suspect]]
        half = len(names) // 2
        return [list(range(half)), list(range(half, len(names)))]

    def _count(self, name: str, lost: Lost) -> None:
        reached = self.progress(name)
        if self._reached.get(name) != reached:
            self._deaths[name] = 0
        self._reached[name] = reached
        self._deaths[name] += 1
        self._in_all[name] += not lost.killed

    def _failed(self, name: str, lost: Lost) -> bool:
        most = MOST_KILLS if lost.killed else MOST_DEATHS
        over = self._deaths[name] >= most or self._in_all[name] >= DEATHS_IN_ALL
        return over or not lost.again


def run_narrowing(
    engine: Engine,
    function: Callable[[Job, Report], Outcome],
    jobs: Sequence[Job],
    report: Callable[[Job, float], None],
    again: Callable[[Job, Lost], Sequence[Job]],
) -> Iterator[tuple[Job, Outcome | Lost]]:
    """Run jobs as `engine.run` does; replace a lost job by those that `again` returns for it."""
    waiting = list(jobs)
    while waiting:
        narrower: list[Job] = []
        for job, outcome in engine.run(function, waiting, report):
            parts = again(job, outcome) if isinstance(outcome, Lost) else ()
            narrower += parts
            if not parts:
                yield job, outcome
        waiting = narrower
