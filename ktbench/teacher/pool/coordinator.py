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
from ray.exceptions import RayActorError, RayError

from ktbench.teacher.pool.dispatch import Dispatcher
from ktbench.teacher.pool.history import History
from ktbench.teacher.pool.messages import Collected, PoolJob, Ready, Receipt, Request, StreamKey
from ktbench.teacher.pool.registry import Client, WorkerHandle, client_status
from ktbench.teacher.pool.scheduler_events import (
    Action,
    AskForWorker,
    Deliver,
    Dismiss,
    Drop,
    Poisoned,
    Release,
    Rules,
    Send,
)
from ktbench.teacher.pool.workforce import TICK, Workforce, first_line

LINGER = 60.0
"""Seconds that a pool without trainings waits for the next one."""
SILENT = 900.0
"""Seconds without a call after which a training is taken to be dead; it may come again."""


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
        self._job, self._linger = job, linger
        self._dispatcher = Dispatcher(rules)
        self._history = History()
        self._workforce = Workforce(
            job,
            weights,
            self._history,
            own=workers,
            most=most_workers,
            joined=self._worker_joined,
            left=self._worker_left,
        )
        self._clients: dict[str, Client] = {}
        self._requests: dict[int, tuple[str, Request]] = {}
        """Client and request by the dispatcher's task."""
        self._answers: dict[tuple[int, str], Any] = {}
        self._last_task = 0
        self._begun = False
        self._heard = time.monotonic()

    async def begin(self) -> None:
        """Start the pool's own workers and its clock; a second call does nothing."""
        if not self._begun:
            self._begun = True
            self._workforce.spawn(self._tick_forever())
            self._workforce.begin()

    # ------------------------------------------------------------ workers

    async def job(self) -> PoolJob:
        """Return what a worker of this pool is built from, except for the teacher's weights."""
        return self._job

    async def join(self, name: str, actor: Sequence[Any]) -> None:
        """Take in a worker that somebody has started; `actor` holds its handle."""
        self._workforce.take_in(name, actor[0])

    def _worker_joined(self, name: str) -> None:
        self._carry_out(self._dispatcher.join(name, time.monotonic()))
        self._workers_changed()

    def _worker_left(self, name: str) -> None:
        self._carry_out(self._dispatcher.leave(name, time.monotonic()))
        self._workers_changed()

    def _workers_changed(self) -> None:
        self._history.present(len(self._dispatcher.workers))
        for client in self._clients.values():
            client.news.set()

    # ------------------------------------------------------------ trainings

    async def attach(self, student: str, key: StreamKey, label: str) -> None:
        """Register a training, for the first time or after the pool was started again."""
        self._heard = time.monotonic()
        self._clients[student] = Client(key, label, self._heard)

    async def detach(self, student: str) -> None:
        """Forget a training that is over."""
        self._heard = time.monotonic()
        self._forget(student)

    def _forget(self, student: str) -> None:
        client = self._clients.pop(student, None)
        if client is not None:
            for task in client.tasks.values():
                self._requests.pop(task, None)
            self._carry_out(self._dispatcher.forget(student, time.monotonic()))

    async def submit(
        self, student: str, requests: list[Request], taken: list[int], withdrawn: list[int]
    ) -> None:
        """Take in new requests, and the numbers of those that were answered or withdrawn."""
        client = self._clients.get(student)
        if client is None:
            return
        now = time.monotonic()
        for number in (*taken, *withdrawn):
            task = client.tasks.pop(number, None)
            if task is not None:
                self._requests.pop(task, None)
                close = self._dispatcher.took if number in taken else self._dispatcher.withdraw
                self._carry_out(close(task, now))
        for request in requests:
            self._last_task += 1
            client.tasks[request.number] = self._last_task
            self._requests[self._last_task] = (student, request)
            self._carry_out(self._dispatcher.submit(self._last_task, student, now))

    async def collect(self, student: str, seconds: float) -> Collected:
        """Return what is ready for a training; waits up to `seconds` until something is."""
        client = self._clients.get(student)
        if client is None:
            workers, refused = len(self._dispatcher.workers), self._workforce.refused
            return Collected([], [], workers, 4, refused, known=False)
        client.heard = self._heard = time.monotonic()
        if not client.ready and not client.poisoned:
            with suppress(TimeoutError):
                await asyncio.wait_for(client.news.wait(), seconds)
        client.news.clear()
        ready, client.ready = client.ready, []
        poisoned, client.poisoned = client.poisoned, []
        client.heard = self._heard = time.monotonic()
        workers, refused = len(self._dispatcher.workers), self._workforce.refused
        return Collected(ready, poisoned, workers, self._dispatcher.window(student), refused)

    async def reject(self, student: str, number: int, worker: str | None, reason: str) -> None:
        """Take back an answer that was wrong (`worker` is to blame) or was lost (None)."""
        client = self._clients.get(student)
        task = client.tasks.get(number) if client is not None else None
        if task is None:
            return
        self._history.add("failed", worker or "", reason)
        now = time.monotonic()
        if worker is None:
            self._carry_out(self._dispatcher.lost(task, now))
        else:
            self._carry_out(self._dispatcher.failed(task, worker, reason, now))

    # ------------------------------------------------------------ actions

    def _carry_out(self, actions: list[Action]) -> None:
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
                    self._give_up(task, student, reason)
                case Dismiss(worker, reason):
                    self._workforce.dismiss(worker, reason)
                case AskForWorker():
                    self._workforce.start_another()
                case Release(worker):
                    self._workforce.release(worker)

    def _send(self, task: int, worker: str) -> None:
        handle, entry = self._workforce.handles.get(worker), self._requests.get(task)
        if handle is None or entry is None:
            return
        student, request = entry
        key = self._clients[student].key
        receipt, answer = handle.actor.answer.options(num_returns=2).remote(key, request)
        self._workforce.spawn(self._wait(task, worker, handle, receipt, answer))

    async def _wait(
        self, task: int, worker: str, handle: WorkerHandle, reference: Any, answer: Any
    ) -> None:
        """Wait for the receipt of an answer."""
        failure, life = "", handle.life
        try:
            receipt: Receipt = await reference
            failure = receipt.failed
        except RayActorError as error:
            self._workforce.lost(worker, handle, life, error)
            return
        except RayError as error:
            failure = first_line(error)
        now = time.monotonic()
        if failure:
            self._history.add("failed", worker, failure)
            self._carry_out(self._dispatcher.failed(task, worker, failure, now))
        else:
            self._history.worked(worker, receipt.seconds)
            self._answers[task, worker] = answer
            self._carry_out(self._dispatcher.answered(task, worker, now))

    def _deliver(self, task: int, worker: str) -> None:
        answer = self._answers.pop((task, worker))
        student, request = self._requests[task]
        client = self._clients[student]
        client.ready.append(Ready(request.number, worker, [answer]))
        client.news.set()
        self._history.delivered()

    def _give_up(self, task: int, student: str, reason: str) -> None:
        _, request = self._requests.pop(task)
        self._history.add("poisoned", "", reason)
        client = self._clients.get(student)
        if client is not None:
            client.tasks.pop(request.number, None)
            client.poisoned.append((request.number, reason))
            client.news.set()

    # ------------------------------------------------------------ time

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._carry_out(self._dispatcher.tick(now))
            self._workforce.check_idle(self._dispatcher.workers, now)
            for name in [n for n, c in self._clients.items() if now - c.heard > SILENT]:
                self._forget(name)
            if not self._clients and now - self._heard > self._linger:
                ray.kill(ray.get_runtime_context().current_actor)

    # ------------------------------------------------------------ status

    async def digests(self) -> list[str]:
        """Return the digest of the teacher that each worker holds, computed now."""
        present = [self._workforce.handles[name] for name in self._dispatcher.workers]
        digests = await asyncio.gather(
            *(handle.actor.digest.remote() for handle in present), return_exceptions=True
        )
        return [digest for digest in digests if isinstance(digest, str)]

    async def history(self) -> dict[str, Any]:
        """Return everything that the report draws."""
        return {"teacher": self._job.teacher.name, **self._history.plain()}

    async def status(self) -> dict[str, Any]:
        """Describe how the pool stands now, for people and programs."""
        states = self._dispatcher.students
        return {
            "teacher": self._job.teacher.name,
            "pool": self._job.name,
            "seconds": round(self._history.now(), 1),
            "refused": self._workforce.refused,
            "workers": self._workforce.status(self._dispatcher.workers),
            "students": [
                client_status(client, states[name])
                for name, client in self._clients.items()
                if name in states
            ],
        }
