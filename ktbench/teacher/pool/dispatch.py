"""Decides which worker answers which task: a state machine without clock, threads or network.

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

from ktbench.teacher.pool.autoscale import Autoscaler
from ktbench.teacher.pool.registry import StudentState, Task, WorkerState, typical_service
from ktbench.teacher.pool.scheduler_events import (
    Action,
    Deliver,
    Dismiss,
    Drop,
    Poisoned,
    Rules,
    Send,
)


class Dispatcher:
    """Places the tasks of several students on workers that come and go.

    Each method takes in an event and its time, and returns the actions to carry out.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.workers: dict[str, WorkerState] = {}
        self.students: dict[str, StudentState] = {}
        self._tasks: dict[int, Task] = {}
        self._autoscaler = Autoscaler(self.rules)

    # ------------------------------------------------------------ workers

    def join(self, worker: str, now: float) -> list[Action]:
        """Take in a worker, for the first time or again."""
        actions = self.leave(worker, now) if worker in self.workers else []
        self.workers[worker] = WorkerState(worker, now, self.rules)
        return actions + self._place(now)

    def leave(self, worker: str, now: float) -> list[Action]:
        """Remove a worker that is gone; its tasks go to others."""
        state = self.workers.pop(worker, None)
        if state is None:
            return []
        actions: list[Action] = []
        for position, name in enumerate(state.holds):
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
        """Take in a new task; names rise in the order in which a student needs its answers."""
        if task in self._tasks:
            return []
        insort(self._student(student).waiting, task)
        self.students[student].open.add(task)
        self._tasks[task] = Task(task, student)
        return self._place(now)

    def took(self, task: int, now: float) -> list[Action]:
        """Close a task whose answer the student has accepted."""
        entry = self._tasks.get(task)
        if entry is not None and entry.delivered is not None:
            if entry.delivered in self.workers:
                self.workers[entry.delivered].strikes = 0
            self._forget(entry)
            self.students[entry.student].take(now)
        return []

    def withdraw(self, task: int, now: float) -> list[Action]:
        """Drop a task whose answer nobody wants any more."""
        entry = self._tasks.get(task)
        if entry is not None:
            self._forget(entry)
        return self._place(now)

    def forget(self, student: str, now: float) -> list[Action]:
        """Remove a student with all of its tasks."""
        for task in [t for t in self._tasks.values() if t.student == student]:
            self._forget(task)
        self.students.pop(student, None)
        return self._place(now)

    def window(self, student: str) -> int:
        """Return how many tasks a student may have open or ready, so that no worker waits for it.

        2·n + 2 for n workers (as EDL-Dist has it); more where they differ in speed, as answers
        are taken in order and a slow worker's must not hold up what fast ones do meanwhile.
        """
        active = [w for w in self.workers.values() if w.active]
        usual = typical_service(active, self.rules.unknown)
        services = [w.service(usual) for w in active]
        tasks = 2 * len(active) + 2
        if services:
            rate = sum(1 / s for s in services) / max(1, len(self.students))
            tasks = max(tasks, math.ceil(1.25 * rate * max(services)) + 2)
        return min(tasks, self.rules.most_ahead)

    # ------------------------------------------------------------ answers

    def answered(self, task: int, worker: str, now: float) -> list[Action]:
        """Take in an answer; the first one of a task is delivered, later ones are dropped."""
        self._finished(task, worker, now)
        entry = self._tasks.get(task)
        if entry is None or entry.delivered is not None:
            return [Drop(task, worker), *self._place(now)]
        if worker in self.workers:
            self.workers[worker].answered += 1
        entry.copies.pop(worker, None)
        entry.delivered = worker
        student = self.students[entry.student]
        student.unqueue(task)
        student.ready.add(task)
        return [Deliver(task, worker), *self._place(now)]

    def failed(self, task: int, worker: str, reason: str, now: float) -> list[Action]:
        """Take in a failure: a worker could not answer, or its student found the answer wrong."""
        self._finished(task, worker, now)
        actions: list[Action] = []
        entry = self._tasks.get(task)
        if entry is not None and (worker in entry.copies or entry.delivered == worker):
            entry.copies.pop(worker, None)
            if entry.delivered == worker:
                self._take_back(entry)
            if entry.delivered is None:
                actions += self._retry(entry, worker, reason)
        culprit = self.workers.get(worker)
        if culprit is not None:
            culprit.strikes += 1
            if culprit.strikes >= self.rules.strikes:
                actions.append(Dismiss(worker, f"{culprit.strikes} failures in a row: {reason}"))
                actions += self.leave(worker, now)
        return actions + self._place(now)

    def lost(self, task: int, now: float) -> list[Action]:
        """Queue a task again whose answer never reached its student, by nobody's fault."""
        entry = self._tasks.get(task)
        actions: list[Action] = []
        if entry is not None and entry.delivered is not None:
            self._take_back(entry)
            entry.losses += 1
            if entry.losses >= self.rules.losses:
                actions += self._poison(entry, f"its answer was lost {entry.losses} times")
            else:
                self._queue_again(entry)
        return actions + self._place(now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> list[Action]:
        """Look for hung workers and late tasks, and keep as many workers as are needed."""
        actions: list[Action] = []
        usual = typical_service(self.workers.values(), self.rules.unknown)
        measured = any(w.recent for w in self.workers.values())
        for worker in list(self.workers.values()):
            limit = max(self.rules.hung_floor, self.rules.hung * worker.service(usual))
            limit = limit if measured else max(limit, self.rules.patience)
            if worker.holds and now - worker.began > limit:
                actions.append(Dismiss(worker.name, f"no answer for {now - worker.began:.0f} s"))
                actions += self.leave(worker.name, now)
        actions += self._send_late_again(now)
        actions += self._autoscaler.adjust(self.workers, self.students, self.window, now)
        return actions + self._place(now)

    def _send_late_again(self, now: float) -> list[Action]:
        """Send each overdue task to one more worker."""
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
        """Send the tasks that are best sent now; the others wait for a worker that is sooner."""
        if not any(s.waiting for s in self.students.values()):
            return []
        self._autoscaler.keep_one(self.workers)
        active = [w for w in self.workers.values() if w.active]
        open_slots = sum(max(0, w.depth() - len(w.holds)) for w in active)
        usual = typical_service(active, self.rules.unknown)
        service = {w.name: w.service(usual) for w in active}
        planned = {w.name: len(w.holds) for w in active}
        heap = [(w.free_at(now, service[w.name]) + service[w.name], w.name) for w in active]
        heapq.heapify(heap)
        sends: list[tuple[Task, WorkerState]] = []
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

    def _fair_order(self) -> Iterator[Task]:
        """Yield waiting tasks; the student that has been sent the fewest comes first."""
        turns = [(s.served, s.name, 0) for s in self.students.values() if s.waiting]
        heapq.heapify(turns)
        queues = {name: list(self.students[name].waiting) for _, name, _ in turns}
        while turns:
            served, name, position = heapq.heappop(turns)
            yield self._tasks[queues[name][position]]
            if position + 1 < len(queues[name]):
                heapq.heappush(turns, (served + 1, name, position + 1))

    def _best(self, task: Task, now: float) -> WorkerState | None:
        """Return the worker that can answer a failed or late task first.

        Those that failed it come last: even a parked worker is better.
        """
        usual = typical_service(self.workers.values(), self.rules.unknown)
        others = [w for w in self.workers.values() if w.name not in task.copies]
        untried = [w for w in others if w.name not in task.failed_on]
        free = [w for w in untried or others if len(w.holds) < w.depth()]

        def done(worker: WorkerState) -> tuple[float, str]:
            service = worker.service(usual)
            return worker.free_at(now, service) + service, worker.name

        return min(free, key=done, default=None)

    def _send(self, task: Task, worker: WorkerState, now: float) -> Send:
        measured = any(w.recent for w in self.workers.values())
        service = worker.service(typical_service(self.workers.values(), self.rules.unknown))
        expected = worker.free_at(now, service) + service - now
        slack = max(self.rules.overdue_floor, self.rules.overdue * expected)
        task.copies[worker.name] = now + (slack if measured else self.rules.patience)
        if not worker.holds:
            worker.began = now
        worker.holds.append(task.name)
        student = self.students[task.student]
        student.unqueue(task.name)
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
        """Take the task from the worker; the time it took is a sample of its speed."""
        state = self.workers.get(worker)
        if state is None or task not in state.holds:
            return
        if state.holds[0] == task:
            state.measure(now - state.began)
            state.began = now
        state.holds.remove(task)

    def _retry(self, task: Task, worker: str, reason: str) -> list[Action]:
        task.errors += 1
        task.failed_on.add(worker)
        if self._hopeless(task):
            return self._poison(task, reason)
        self._queue_again(task)
        return []

    def _take_back(self, task: Task) -> None:
        task.delivered = None
        self.students[task.student].ready.discard(task.name)

    def _hopeless(self, task: Task) -> bool:
        """Return whether every worker has failed the task, often enough to rule out chance."""
        untried = [name for name in self.workers if name not in task.failed_on]
        bound = self.rules.errors if not untried else 2 * self.rules.errors
        return task.errors >= bound

    def _queue_again(self, task: Task) -> None:
        """Put a task back into its student's order, unless another worker is still at it."""
        waiting = self.students[task.student].waiting
        if not task.copies and task.delivered is None and task.name not in waiting:
            insort(waiting, task.name)

    def _poison(self, task: Task, reason: str) -> list[Action]:
        self._forget(task)
        return [Poisoned(task.name, task.student, reason)]

    def _forget(self, task: Task) -> None:
        del self._tasks[task.name]
        self.students[task.student].forget(task.name)
