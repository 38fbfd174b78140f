"""Emulated: the pool's dispatch gives 1.3 times the throughput of the study's own rule.

The baseline is the rule of EDL-Dist (Liu et al., CCPE 2023) as its public code has it, on the same
emulated workers, messages and client: servers are tied to students in the order in which they
came, whatever their speed, at most ⌈C/S⌉ students per server and ⌊S/C⌋ servers per student; a
server takes one task at a time from its student's queue; a student has at most 2·n + 2 tasks that
are not back in order. The study waits at the end of every epoch for all of its tasks, and sends
images; neither is held against it here.

The bar is for the pools of three speeds. On a pool of equal workers, printed too, there is little
that speed-aware dispatch could do better.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, cluster_of
from benchmarks._pool_emulated import Mix, calibrated, throughput
from ktbench.teacher.pool.coordinator import Coordinator
from ktbench.teacher.pool.dispatch import Dispatcher
from ktbench.teacher.pool.scheduler_events import Action, Rules

BAR = 1.3
UNEQUAL = (
    Mix(1, {"fast": 2, "middle": 2, "slow": 4}),
    Mix(2, {"fast": 3, "middle": 5, "slow": 8}),
    Mix(3, {"fast": 4, "middle": 6, "slow": 10}),
)
EQUAL = (Mix(1, {"middle": 6}), Mix(2, {"middle": 12}))
WARM_S, MEASURE_S = 15.0, 30.0


class StudyRule(Dispatcher):
    """Sticky and blind to speed; it hands out tasks, all else is the pool's."""

    def __init__(self, rules: Rules | None = None) -> None:
        super().__init__(rules)
        self._tied: dict[str, list[str]] = {}
        """Servers by student."""

    def window(self, student: str) -> int:
        """2·n + 2 for the n servers of this student."""
        return 2 * len(self._tied.get(student, ())) + 2

    def tick(self, now: float) -> list[Action]:
        """Nothing is measured, so nothing is late, and every server stays."""
        return self._place(now)

    def _place(self, now: float) -> list[Action]:
        self._tie()
        actions: list[Action] = []
        for student, servers in self._tied.items():
            waiting = self.students[student].waiting
            for name in servers:
                if waiting and not self.workers[name].holds:
                    actions.append(self._send(self._tasks[waiting[0]], self.workers[name], now))
        return actions

    def _tie(self) -> None:
        """Break ties beyond the bounds, then fill up: first come, first served."""
        if not self.workers or not self.students:
            self._tied = {}
            return
        per_server = math.ceil(len(self.students) / len(self.workers))
        per_student = max(1, len(self.workers) // len(self.students))
        self._tied = {
            student: [s for s in self._tied.get(student, []) if s in self.workers][:per_student]
            for student in self.students
        }
        load = {name: sum(name in tied for tied in self._tied.values()) for name in self.workers}
        for tied in self._tied.values():
            for name in self.workers:
                if len(tied) >= per_student:
                    break
                if name not in tied and load[name] < per_server:
                    tied.append(name)
                    load[name] += 1


class StudyCoordinator(Coordinator):
    """The pool's messages under the study's rule."""

    def __init__(self, *arguments: Any, rules: Rules | None = None, linger: float) -> None:
        super().__init__(*arguments, rules=rules, linger=linger)
        self._dispatcher = StudyRule(rules)


def _study(lesson: Lesson) -> OpenPool:
    return OpenPool(lesson, kind=StudyCoordinator)


def run() -> Outcome:
    """Both rules on every pool, one after the other."""
    times = calibrated()
    print(f"emulated service times. {times.told()}")
    print(f"{'pool':<40}{'study':>8}{'ours':>8}{'ceiling':>9}{'ratio':>7}  batches/s by student")
    ratios = []
    with cluster_of(2):
        for mix in UNEQUAL + EQUAL:
            theirs = throughput(mix, times, warm_s=WARM_S, measure_s=MEASURE_S, make=_study)
            ours = throughput(mix, times, warm_s=WARM_S, measure_s=MEASURE_S)
            ratio = sum(ours) / sum(theirs)
            ceiling = min(mix.students / times.t_student, mix.rate(times))
            if mix in UNEQUAL:
                ratios.append(ratio)
            each = " ".join(f"{r:.1f}" for r in theirs) + " | " + " ".join(f"{r:.1f}" for r in ours)
            print(
                f"{mix!s:<40}{sum(theirs):>8.2f}{sum(ours):>8.2f}{ceiling:>9.2f}{ratio:>7.2f}"
                f"  {each}",
                flush=True,
            )
    return Outcome(
        f"{min(ratios):.2f} times the study's rule at least, {max(ratios):.2f} at most, on pools "
        "of three speeds (emulated)",
        f">= {BAR} times",
        min(ratios) >= BAR,
    )
