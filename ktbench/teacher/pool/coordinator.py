"""The actor between trainings and workers: it carries out what the dispatcher decides.

Receipts come here, answers go from worker to training through the object store. What Ray knows
(that a process or a node is gone, where actors are, when one has been restarted) is Ray's; only a
worker that hangs is found here, by how long it should have taken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from ktbench.teacher.pool.dispatch import Dispatcher
from ktbench.teacher.pool.history import History
from ktbench.teacher.pool.messages import Ask, Hello, PoolJob, Receipt, StreamKey
from ktbench.teacher.pool.registry import (
    Collected,
    Hand,
    Ready,
    Training,
    first_line,
    training_status,
    worker_status,
)
from ktbench.teacher.pool.scheduler_events import (
    Action,
    Deliver,
    Dismiss,
    Drop,
    Poisoned,
    Release,
    Rules,
    Send,
)
from ktbench.teacher.pool.scheduler_events import Ask as AskForWorker
from ktbench.teacher.pool.worker import Worker

TICK = 0.1
LINGER = 60.0
"""How long a pool without trainings waits for the next one."""
LOOK_EVERY = 1.0
"""How often a worker without work is asked whether it is there."""
SILENT = 900.0
"""How long a training may say nothing before it is taken to be dead; it may come again."""
MOST_DISMISSALS = 3
"""Of one worker, before it is ended for good."""


class Coordinator:
    """Runs as a named Ray actor, one per teacher and data set."""

    def __init__(
        self,
        job: PoolJob,
        weights: bytes,
        *,
        workers: int = 0,
        most_workers: int = 0,
        rules: Rules | None = None,
        linger: float = LINGER,
    ) -> None:
        self._job = job
        self._weights = ray.put(weights)
        self._wanted, self._most, self._linger = workers, max(workers, most_workers), linger
        self._dispatcher = Dispatcher(rules)
        self._history = History()
        self._hands: dict[str, Hand] = {}
        self._students: dict[str, Training] = {}
        self._asks: dict[int, tuple[str, Ask]] = {}
        self._answers: dict[tuple[int, str], Any] = {}
        self._tasks = 0
        self._started = 0
        self._refused = ""
        self._heard = time.monotonic()
        self._background: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Start the pool's own workers and its clock; a second call does nothing."""
        if self._background:
            return
        self._spawn(self._tick_forever())
        for _ in range(self._wanted):
            self._start_worker()

    # ------------------------------------------------------------ workers

    async def job(self) -> PoolJob:
        """What a worker of this pool is made with; the weights it is given when it is let in."""
        return self._job

    async def join(self, name: str, actor: Sequence[Any]) -> None:
        """Take in a worker that somebody has started; `actor` holds its handle."""
        self._take_in(name, Hand(actor[0], own=False))

    def _start_worker(self) -> None:
        self._started += 1
        actor = ray.remote(Worker).options(num_cpus=self._job.threads, max_restarts=-1)
        handle = actor.remote(self._job)
        self._take_in(f"worker-{self._started}", Hand(handle, own=True))

    def _take_in(self, name: str, hand: Hand) -> None:
        self._hands[name] = hand
        self._spawn(self._admit(name, hand))

    async def _admit(self, name: str, hand: Hand) -> None:
        """Let a worker in once it is ready and the same in everything that decides bits."""
        tries = 0
        while self._hands.get(name) is hand:
            try:
                hello: Hello = await hand.handle.hello.remote(self._weights)
            except ActorUnavailableError:
                await asyncio.sleep(TICK)  # Ray is starting it again.
            except RayError as error:
                tries += 1
                if tries == 3:
                    self._end(name, "leave", first_line(error))
                await asyncio.sleep(TICK)
            else:
                self._judge(name, hand, hello)
                return

    def _judge(self, name: str, hand: Hand, hello: Hello) -> None:
        trouble = hello.trouble
        if not trouble and hello.identity is not None:
            trouble = self._job.identity.differs(hello.identity) or ""
        if trouble:
            self._refused = f"{name} on {hello.node}: {trouble}"
            self._end(name, "refused", trouble)
            return
        hand.hello = hello
        hand.life += 1
        self._history.add("join", name, f"{hello.node}, process {hello.process}")
        self._do(self._dispatcher.join(name, time.monotonic()))
        self._present()

    def _lost(self, name: str, hand: Hand, life: int, reason: str) -> None:
        """A worker's process is gone; Ray may start it again."""
        if self._hands.get(name) is not hand or hand.life != life:
            return
        hand.life += 1
        hand.restarts += 1
        self._history.add("leave", name, reason)
        self._do(self._dispatcher.leave(name, time.monotonic()))
        self._present()
        self._spawn(self._admit(name, hand))

    def _end(self, name: str, kind: Any, reason: str) -> None:
        """A worker is gone for good."""
        hand = self._hands.pop(name, None)
        if hand is None:
            return
        self._history.add(kind, name, reason)
        _kill(hand.handle, restart=False)
        self._do(self._dispatcher.leave(name, time.monotonic()))
        self._present()
        if hand.own and kind == "leave" and self._count_own() < self._wanted:
            self._start_worker()

    def _dismiss(self, name: str, reason: str) -> None:
        """End a worker that hangs or answers wrongly; Ray starts it anew a few times."""
        hand = self._hands.get(name)
        if hand is None:
            return
        hand.dismissals += 1
        if hand.dismissals >= MOST_DISMISSALS:
            self._refused = f"{name}: dismissed: {reason}"
            self._end(name, "dismissed", reason)
            return
        hand.life += 1
        hand.restarts += 1
        self._history.add("dismissed", name, reason)
        self._present()
        _kill(hand.handle, restart=True)
        self._spawn(self._admit(name, hand))

    def _count_own(self) -> int:
        return sum(hand.own for hand in self._hands.values())

    def _present(self) -> None:
        self._history.present(len(self._dispatcher.workers))
        for student in self._students.values():
            student.news.set()

    # ------------------------------------------------------------ trainings

    async def attach(self, student: str, key: StreamKey, label: str) -> None:
        """A training begins to ask, or asks anew after the pool was started again."""
        self._heard = time.monotonic()
        self._students[student] = Training(key, label, self._heard)

    async def detach(self, student: str) -> None:
        """A training is over."""
        self._heard = time.monotonic()
        self._forget(student)

    def _forget(self, student: str) -> None:
        gone = self._students.pop(student, None)
        if gone is not None:
            for task in gone.tasks.values():
                self._asks.pop(task, None)
            self._do(self._dispatcher.forget(student, time.monotonic()))

    async def submit(
        self, student: str, asks: list[Ask], took: list[int], withdrawn: list[int]
    ) -> None:
        """New batches to answer, what was taken, and what is no longer wanted."""
        known = self._students.get(student)
        if known is None:
            return
        now = time.monotonic()
        for number in (*took, *withdrawn):
            task = known.tasks.pop(number, None)
            if task is not None:
                self._asks.pop(task, None)
                over = self._dispatcher.took if number in took else self._dispatcher.withdraw
                self._do(over(task, now))
        for ask in asks:
            self._tasks += 1
            known.tasks[ask.number] = self._tasks
            self._asks[self._tasks] = (student, ask)
            self._do(self._dispatcher.submit(self._tasks, student, now))

    async def collect(self, student: str, seconds: float) -> Collected:
        """What is ready for a training; waits so long for something to be."""
        known = self._students.get(student)
        if known is None:
            return Collected([], [], len(self._dispatcher.workers), 4, self._refused, known=False)
        known.heard = self._heard = time.monotonic()
        if not known.ready and not known.poisoned:
            with suppress(TimeoutError):
                await asyncio.wait_for(known.news.wait(), seconds)
        known.news.clear()
        ready, known.ready = known.ready, []
        poisoned, known.poisoned = known.poisoned, []
        known.heard = self._heard = time.monotonic()
        window = self._dispatcher.window(student)
        return Collected(ready, poisoned, len(self._dispatcher.workers), window, self._refused)

    async def reject(self, student: str, number: int, worker: str | None, reason: str) -> None:
        """An answer was wrong (`worker` is to blame), or never reached its training (None)."""
        known = self._students.get(student)
        task = known.tasks.get(number) if known is not None else None
        if task is None:
            return
        self._history.add("failed", worker or "", reason)
        now = time.monotonic()
        if worker is None:
            self._do(self._dispatcher.lost(task, now))
        else:
            self._do(self._dispatcher.failed(task, worker, reason, now))

    # ------------------------------------------------------------ carrying out

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(task, worker):
                    self._send(task, worker)
                case Deliver(task, worker):
                    self._deliver(task, worker)
                case Drop(task, worker):
                    self._answers.pop((task, worker), None)
                    self._history.dropped += 1
                case Poisoned(task, student, reason):
                    self._poisoned(task, student, reason)
                case Dismiss(worker, reason):
                    self._dismiss(worker, reason)
                case AskForWorker():
                    if self._count_own() < self._most:
                        self._history.add("asked", "")
                        self._start_worker()
                case Release(worker):
                    hand = self._hands.get(worker)
                    if hand is not None and hand.own and self._count_own() > self._wanted:
                        self._end(worker, "leave", "not needed")

    def _send(self, task: int, worker: str) -> None:
        hand, asked = self._hands.get(worker), self._asks.get(task)
        if hand is None or asked is None:
            return
        student, ask = asked
        key = self._students[student].key
        receipt, answer = hand.handle.answer.options(num_returns=2).remote(key, ask)
        self._spawn(self._wait(task, worker, hand, receipt, answer))

    async def _wait(self, task: int, worker: str, hand: Hand, receipt: Any, answer: Any) -> None:
        failed, life = "", hand.life
        try:
            told: Receipt = await receipt
            failed = told.failed
        except RayActorError as error:
            self._lost(worker, hand, life, first_line(error))
            return
        except RayError as error:
            failed = first_line(error)
        now = time.monotonic()
        if failed:
            self._history.add("failed", worker, failed)
            self._do(self._dispatcher.failed(task, worker, failed, now))
        else:
            self._history.worked(worker, told.seconds)
            self._answers[task, worker] = answer
            self._do(self._dispatcher.answered(task, worker, now))

    def _deliver(self, task: int, worker: str) -> None:
        answer = self._answers.pop((task, worker))
        student, ask = self._asks[task]
        known = self._students[student]
        known.ready.append(Ready(ask.number, worker, [answer]))
        known.news.set()
        self._history.delivered()

    def _poisoned(self, task: int, student: str, reason: str) -> None:
        _, ask = self._asks.pop(task)
        self._history.add("poisoned", "", reason)
        known = self._students.get(student)
        if known is not None:
            known.tasks.pop(ask.number, None)
            known.poisoned.append((ask.number, reason))
            known.news.set()

    # ------------------------------------------------------------ time

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._do(self._dispatcher.tick(now))
            self._look_at_idle(now)
            for name in [n for n, s in self._students.items() if now - s.heard > SILENT]:
                self._forget(name)
            if not self._students and now - self._heard > self._linger:
                ray.kill(ray.get_runtime_context().current_actor)

    def _look_at_idle(self, now: float) -> None:
        """A worker that has nothing to do cannot fail at it: it is asked now and then."""
        for name, state in self._dispatcher.workers.items():
            hand = self._hands[name]
            if not state.holds and now - hand.looked > LOOK_EVERY:
                hand.looked = now
                self._spawn(self._look(name, hand, hand.life))

    async def _look(self, name: str, hand: Hand, life: int) -> None:
        try:
            await hand.handle.alive.remote()
        except RayError as error:
            self._lost(name, hand, life, first_line(error))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ------------------------------------------------------------ looking on

    async def digests(self) -> list[str]:
        """Of the teacher that each worker holds, worked out now."""
        present = [self._hands[name] for name in self._dispatcher.workers]
        found = await asyncio.gather(
            *(hand.handle.digest.remote() for hand in present), return_exceptions=True
        )
        return [digest for digest in found if isinstance(digest, str)]

    async def history(self) -> dict[str, Any]:
        """Everything that the report draws."""
        return {"teacher": self._job.teacher.name, **self._history.plain()}

    async def status(self) -> dict[str, Any]:
        """How the pool stands now, for people and programs."""
        students = self._dispatcher.students
        return {
            "teacher": self._job.teacher.name,
            "pool": self._job.name,
            "seconds": round(self._history.now(), 1),
            "refused": self._refused,
            "workers": [
                worker_status(name, hand, self._dispatcher.workers.get(name))
                for name, hand in self._hands.items()
            ],
            "students": [
                training_status(known, students[name])
                for name, known in self._students.items()
                if name in students
            ],
        }


def _kill(handle: Any, *, restart: bool) -> None:
    try:
        ray.kill(handle, no_restart=not restart)
    except Exception:  # It is gone already, or its node is: that is what was wanted.
        return
