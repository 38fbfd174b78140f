"""The worker processes of a pool: started, let in, checked, and ended or started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from ktbench.teacher.pool.history import History, Kind
from ktbench.teacher.pool.messages import Hello, PoolJob
from ktbench.teacher.pool.registry import WorkerHandle, WorkerState, worker_status
from ktbench.teacher.pool.worker import Worker

TICK = 0.1
CHECK_EVERY = 1.0
"""Seconds between two questions to an idle worker whether it is there."""
MOST_DISMISSALS = 3
"""Dismissals of one worker before it is ended for good."""


class Workforce:
    """The workers of a pool, its own and those that joined.

    `joined` and `left` receive the name of a worker that can be given work, or no longer.
    """

    def __init__(
        self,
        job: PoolJob,
        weights: bytes,
        history: History,
        *,
        own: int,
        most: int,
        joined: Callable[[str], None],
        left: Callable[[str], None],
    ) -> None:
        self._job, self._weights, self._history = job, ray.put(weights), history
        self._own, self._most = own, max(own, most)
        self._joined, self._left = joined, left
        self._started = 0
        self._background: set[asyncio.Task[None]] = set()
        self.handles: dict[str, WorkerHandle] = {}
        self.refused = ""
        """Reason why the latest refused worker was refused."""

    def begin(self) -> None:
        """Start the pool's own workers."""
        for _ in range(self._own):
            self._start()

    def take_in(self, name: str, actor: Any, *, own: bool = False) -> None:
        """Take in a worker's actor, which can be given work once it is ready."""
        self.handles[name] = handle = WorkerHandle(actor, own)
        self.spawn(self._admit(name, handle))

    def start_another(self) -> None:
        """Start one more worker of the pool's own, if it may have more."""
        if self._count_own() < self._most:
            self._history.add("asked", "")
            self._start()

    def release(self, name: str) -> None:
        """End a worker that is not needed, if the pool has started more than it was told to."""
        handle = self.handles.get(name)
        if handle is not None and handle.own and self._count_own() > self._own:
            self._end(name, "leave", "not needed")

    def dismiss(self, name: str, reason: str) -> None:
        """End a worker that hangs or answers wrongly; Ray starts it again a few times."""
        handle = self.handles.get(name)
        if handle is None:
            return
        handle.dismissals += 1
        if handle.dismissals >= MOST_DISMISSALS:
            self.refused = f"{name}: dismissed: {reason}"
            self._end(name, "dismissed", reason)
            return
        self._begin_life_anew(name, handle, "dismissed", reason)
        _kill(handle.actor, restart=True)

    def lost(self, name: str, handle: WorkerHandle, life: int, error: Exception) -> None:
        """Take note that a worker's process is gone; Ray may start it again."""
        if self.handles.get(name) is handle and handle.life == life:
            self._begin_life_anew(name, handle, "leave", first_line(error))

    def check_idle(self, states: Mapping[str, WorkerState], now: float) -> None:
        """Ask workers without work whether they are there: they cannot fail at a task."""
        for name, state in states.items():
            handle = self.handles[name]
            if not state.holds and now - handle.checked > CHECK_EVERY:
                handle.checked = now
                self.spawn(self._check(name, handle, handle.life))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def status(self, states: Mapping[str, WorkerState]) -> list[dict[str, Any]]:
        """Describe the workers for people and programs."""
        return [worker_status(name, w, states.get(name)) for name, w in self.handles.items()]

    # ------------------------------------------------------------ lives of a worker

    def _start(self) -> None:
        self._started += 1
        actor = ray.remote(Worker).options(num_cpus=self._job.threads, max_restarts=-1)
        self.take_in(f"worker-{self._started}", actor.remote(self._job), own=True)

    async def _admit(self, name: str, handle: WorkerHandle) -> None:
        """Let a worker in once it is ready and equal in everything that decides bits."""
        tries = 0
        while self.handles.get(name) is handle:
            try:
                hello: Hello = await handle.actor.hello.remote(self._weights)
            except ActorUnavailableError:
                await asyncio.sleep(TICK)  # Ray is starting it again.
            except RayError as error:
                tries += 1
                if tries == 3:
                    self._end(name, "leave", first_line(error))
                await asyncio.sleep(TICK)
            else:
                self._let_in_or_refuse(name, handle, hello)
                return

    def _let_in_or_refuse(self, name: str, handle: WorkerHandle, hello: Hello) -> None:
        trouble = hello.trouble
        if not trouble and hello.identity is not None:
            trouble = self._job.identity.differs(hello.identity) or ""
        if trouble:
            self.refused = f"{name} on {hello.node}: {trouble}"
            self._end(name, "refused", trouble)
            return
        handle.hello = hello
        handle.life += 1
        self._history.add("join", name, f"{hello.node}, process {hello.process}")
        self._joined(name)

    def _begin_life_anew(self, name: str, handle: WorkerHandle, kind: Kind, reason: str) -> None:
        handle.life += 1
        handle.restarts += 1
        self._history.add(kind, name, reason)
        self._left(name)
        self.spawn(self._admit(name, handle))

    def _end(self, name: str, kind: Kind, reason: str) -> None:
        """End a worker for good."""
        handle = self.handles.pop(name, None)
        if handle is None:
            return
        self._history.add(kind, name, reason)
        _kill(handle.actor, restart=False)
        self._left(name)
        if handle.own and kind == "leave" and self._count_own() < self._own:
            self._start()

    async def _check(self, name: str, handle: WorkerHandle, life: int) -> None:
        try:
            await handle.actor.alive.remote()
        except RayError as error:
            self.lost(name, handle, life, error)

    def _count_own(self) -> int:
        return sum(handle.own for handle in self.handles.values())


def _kill(actor: Any, *, restart: bool) -> None:
    try:
        ray.kill(actor, no_restart=not restart)
    except Exception:  # It is gone already, or its node is: that is what was wanted.
        return


def first_line(error: Exception) -> str:
    """Return what one of Ray's errors says, without its details."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
