"""Which worker answers which task: a state machine without clock, threads or network.

Every input takes the time and returns what is to be done. A task that was submitted is answered
to its student once, or is poisoned, or was withdrawn; it is never lost.

Tasks are placed by list scheduling on measured speeds: in the order in which the students need
them, each goes to where it is expected to be done first, what that worker already holds included.
A slow worker so gets those that a fast one could not answer sooner, which are the later ones.
Students share by start-time fair queueing over tasks: what a task takes is its worker's doing, and
a student whose tasks went to slow workers must not wait for it a second time.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from ktbench.teacher.pool.autoscale import Sizing
from ktbench.teacher.pool.scheduler_events import (
    Action,
    Deliver,
    Dismiss,
    Drop,
    Poisoned,
    Rules,
    Send,
)
from ktbench.teacher.pool.student_demand import StudentState
from ktbench.teacher.pool.worker_load import WorkerState, typical


@dataclass(slots=True)
class _Task:
    name: int
    student: str
    copies: dict[str, float] = field(default_factory=dict)
    """Workers that hold it, and when each is overdue."""
    failed_on: set[str] = field(default_factory=set)
    errors: int = 0
    losses: int = 0
    delivered: str | None = None
    """The worker whose answer its student was given."""


class Dispatcher:
    """Tasks of several students on workers that come and go."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.workers: dict[str, WorkerState] = {}
        self.students: dict[str, StudentState] = {}
        self._tasks: dict[int, _Task] = {}
        self._sizing = Sizing(self.rules)

    # ------------------------------------------------------------ workers

    def join(self, worker: str, now: float) -> list[Action]:
        """A worker is there, for the first time or again."""
        actions = self.leave(worker, now) if worker in self.workers else []
        self.workers[worker] = WorkerState(worker, now, self.rules)
        return actions + self._place(now)

    def leave(self, worker: str, now: float) -> list[Action]:
        """A worker is gone; what it held goes to others."""
        gone = self.workers.pop(worker, None)
        if gone is None:
            return []
        actions: list[Action] = []
        for position, name in enumerate(gone.holds):
            task = self._tasks.get(name)
            if task is None or task.copies.pop(worker, None) is None:
                continue
            if position == 0:  # It was at work on this one, which may be why it died.
                task.losses += 1
            if task.losses >= self.rules.losses:
                actions += self._poison(task, f"{task.losses} workers died over it")
            else:
                self._queue_again(task)
        return actions + self._place(now)

    # ------------------------------------------------------------ students

    def submit(self, task: int, student: str, now: float) -> list[Action]:
        """A new task; names rise in the order in which a student needs its answers."""
        if task in self._tasks:
            return []
        insort(self._student(student).waiting, task)
        self.students[student].open.add(task)
        self._tasks[task] = _Task(task, student)
        return self._place(now)

    def took(self, task: int, now: float) -> list[Action]:
        """The student has its answer and is content with it."""
        known = self._tasks.get(task)
        if known is not None and known.delivered is not None:
            if known.delivered in self.workers:
                self.workers[known.delivered].strikes = 0
            self._forget(known)
            self.students[known.student].take(now)
        return []

    def withdraw(self, task: int, now: float) -> list[Action]:
        """Nobody wants the task's answer any more."""
        known = self._tasks.get(task)
        if known is not None:
            self._forget(known)
        return self._place(now)

    def forget(self, student: str, now: float) -> list[Action]:
        """A student is gone with all that it asked for."""
        for task in [t for t in self._tasks.values() if t.student == student]:
            self._forget(task)
        self.students.pop(student, None)
        return self._place(now)

    def window(self, student: str) -> int:
        """How many tasks a student may have open or ready, so that no worker waits for it.

        2·n + 2 for n workers (as EDL-Dist has it); more where they differ in speed, as answers
        are taken in order and a slow worker's must not hold up what fast ones do meanwhile.
        """
        active = [w for w in self.workers.values() if w.active]
        usual = typical(active, self.rules.unknown)
        services = [w.service(usual) for w in active]
        wanted = 2 * len(active) + 2
        if services:
            rate = sum(1 / s for s in services) / max(1, len(self.students))
            wanted = max(wanted, math.ceil(1.25 * rate * max(services)) + 2)
        return min(wanted, self.rules.most_ahead)

    # ------------------------------------------------------------ answers

    def answered(self, task: int, worker: str, now: float) -> list[Action]:
        """A worker has answered; the first answer of a task is delivered, later ones dropped."""
        self._finished(task, worker, now)
        known = self._tasks.get(task)
        if known is None or known.delivered is not None:
            return [Drop(task, worker), *self._place(now)]
        if worker in self.workers:
            self.workers[worker].answered += 1
        known.copies.pop(worker, None)
        known.delivered = worker
        student = self.students[known.student]
        if task in student.waiting:
            student.waiting.remove(task)
        student.ready.add(task)
        return [Deliver(task, worker), *self._place(now)]

    def failed(self, task: int, worker: str, reason: str, now: float) -> list[Action]:
        """A worker could not answer, or its student found the answer to be wrong."""
        self._finished(task, worker, now)
        actions: list[Action] = []
        known = self._tasks.get(task)
        if known is not None and (worker in known.copies or known.delivered == worker):
            known.copies.pop(worker, None)
            if known.delivered == worker:
                self._take_back(known)
            if known.delivered is None:
                actions += self._retry(known, worker, reason)
        culprit = self.workers.get(worker)
        if culprit is not None:
            culprit.strikes += 1
            if culprit.strikes >= self.rules.strikes:
                actions.append(Dismiss(worker, f"{culprit.strikes} failures in a row: {reason}"))
                actions += self.leave(worker, now)
        return actions + self._place(now)

    def lost(self, task: int, now: float) -> list[Action]:
        """A delivered answer never reached its student, by nobody's fault: it is asked again."""
        known = self._tasks.get(task)
        actions: list[Action] = []
        if known is not None and known.delivered is not None:
            self._take_back(known)
            known.losses += 1
            if known.losses >= self.rules.losses:
                actions += self._poison(known, f"its answer was lost {known.losses} times")
            else:
                self._queue_again(known)
        return actions + self._place(now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> list[Action]:
        """Look for hung workers and late tasks, and keep as many workers as are needed."""
        actions: list[Action] = []
        usual = typical(self.workers.values(), self.rules.unknown)
        known = any(w.recent for w in self.workers.values())
        for worker in list(self.workers.values()):
            limit = max(self.rules.hung_floor, self.rules.hung * worker.service(usual))
            limit = limit if known else max(limit, self.rules.patience)
            if worker.holds and now - worker.began > limit:
                actions.append(Dismiss(worker.name, f"no answer for {now - worker.began:.0f} s"))
                actions += self.leave(worker.name, now)
        actions += self._send_late_again(now)
        actions += self._sizing.adjust(self.workers, self.students, self.window, now)
        return actions + self._place(now)

    def _send_late_again(self, now: float) -> list[Action]:
        """Overdue tasks are sent to one more worker each."""
        actions: list[Action] = []
        for task in self._tasks.values():
            late = len(task.copies) == 1 and all(now > due for due in task.copies.values())
            if late and task.delivered is None:
                worker = self._best(task, now)
                if worker is not None:
                    actions.append(self._send(task, worker, now))
        return actions

    # ------------------------------------------------------------ placing

    def _place(self, now: float) -> list[Action]:
        """Send what is best sent now; the rest waits for the worker that will do it sooner."""
        if not any(s.waiting for s in self.students.values()):
            return []
        self._sizing.keep_one(self.workers)
        active = [w for w in self.workers.values() if w.active]
        open_slots = sum(max(0, w.depth() - len(w.holds)) for w in active)
        usual = typical(active, self.rules.unknown)
        service = {w.name: w.service(usual) for w in active}
        planned = {w.name: len(w.holds) for w in active}
        heap = [(w.free_at(now, service[w.name]) + service[w.name], w.name) for w in active]
        heapq.heapify(heap)
        sends: list[tuple[_Task, WorkerState]] = []
        for task in self._fair_order():
            if task.failed_on or task.copies:
                other = self._best(task, now)
                if other is not None:
                    sends.append((task, other))
                continue
            if open_slots <= 0 or not heap:
                break
            done, name = heap[0]
            heapq.heapreplace(heap, (done + service[name], name))
            planned[name] += 1
            if planned[name] <= self.workers[name].depth():
                open_slots -= 1
                sends.append((task, self.workers[name]))
        actions: list[Action] = []
        for task, worker in sends:
            if len(worker.holds) < worker.depth():
                actions.append(self._send(task, worker, now))
        return actions

    def _fair_order(self) -> Iterator[_Task]:
        """Waiting tasks: the student that has been sent the fewest comes first."""
        turns = [(s.served, s.name, 0) for s in self.students.values() if s.waiting]
        heapq.heapify(turns)
        queues = {name: list(self.students[name].waiting) for _, name, _ in turns}
        while turns:
            served, name, position = heapq.heappop(turns)
            yield self._tasks[queues[name][position]]
            if position + 1 < len(queues[name]):
                heapq.heappush(turns, (served + 1, name, position + 1))

    def _best(self, task: _Task, now: float) -> WorkerState | None:
        """Where a task that has failed or is late is done first; workers that failed it come last.

        Parked workers count: better than asking again who failed already.
        """
        usual = typical(self.workers.values(), self.rules.unknown)
        others = [w for w in self.workers.values() if w.name not in task.copies]
        untried = [w for w in others if w.name not in task.failed_on]
        free = [w for w in untried or others if len(w.holds) < w.depth()]

        def done(worker: WorkerState) -> tuple[float, str]:
            service = worker.service(usual)
            return worker.free_at(now, service) + service, worker.name

        return min(free, key=done, default=None)

    def _send(self, task: _Task, worker: WorkerState, now: float) -> Send:
        known = any(w.recent for w in self.workers.values())
        service = worker.service(typical(self.workers.values(), self.rules.unknown))
        expected = worker.free_at(now, service) + service - now
        slack = max(self.rules.overdue_floor, self.rules.overdue * expected)
        task.copies[worker.name] = now + (slack if known else self.rules.patience)
        if not worker.holds:
            worker.began = now
        worker.holds.append(task.name)
        student = self.students[task.student]
        if task.name in student.waiting:
            student.waiting.remove(task.name)
        student.served += 1
        return Send(task.name, worker.name)

    # ------------------------------------------------------------ bookkeeping

    def _student(self, name: str) -> StudentState:
        if name not in self.students:
            # A newcomer has had nothing, but may not starve the others to make up for it.
            start = min((s.served for s in self.students.values()), default=0)
            self.students[name] = StudentState(name, start)
        return self.students[name]

    def _finished(self, task: int, worker: str, now: float) -> None:
        """The worker no longer holds the task; the time it took is a sample of its speed."""
        state = self.workers.get(worker)
        if state is None or task not in state.holds:
            return
        if state.holds[0] == task:
            state.measure(now - state.began)
            state.began = now
        state.holds.remove(task)

    def _retry(self, task: _Task, worker: str, reason: str) -> list[Action]:
        task.errors += 1
        task.failed_on.add(worker)
        if self._hopeless(task):
            return self._poison(task, reason)
        self._queue_again(task)
        return []

    def _take_back(self, task: _Task) -> None:
        task.delivered = None
        self.students[task.student].ready.discard(task.name)

    def _hopeless(self, task: _Task) -> bool:
        """Every worker that is there has failed it, often enough to rule out chance."""
        untried = [name for name in self.workers if name not in task.failed_on]
        bound = self.rules.errors if not untried else 2 * self.rules.errors
        return task.errors >= bound

    def _queue_again(self, task: _Task) -> None:
        """Back to where its student's order has it, unless another worker is still at it."""
        waiting = self.students[task.student].waiting
        if not task.copies and task.delivered is None and task.name not in waiting:
            insort(waiting, task.name)

    def _poison(self, task: _Task, reason: str) -> list[Action]:
        self._forget(task)
        return [Poisoned(task.name, task.student, reason)]

    def _forget(self, task: _Task) -> None:
        del self._tasks[task.name]
        student = self.students[task.student]
        student.ready.discard(task.name)
        student.open.discard(task.name)
        if task.name in student.waiting:
            student.waiting.remove(task.name)
