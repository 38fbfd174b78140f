"""A training's connection to the coordinator of its pool."""

from __future__ import annotations

import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from ktbench.records import StorageError, canonical_json
from ktbench.system.files import write_atomically
from ktbench.teacher.pool.messages import Collected, PoolJob, Request, StreamKey

POLL = 1.0
"""Seconds that the coordinator keeps a question for answers open."""
HISTORY_EVERY = 20.0
"""Seconds between two writes of the pool's history, in a folder beside the results."""

Connect = Callable[[], Any]
"""Finds the pool's coordinator, or starts one."""


class TeachersGone(StorageError):  # noqa: N818 - a state of the world, not a program error
    """Raised when no worker came in time: the run stops, and its saved work stays."""


class Link:
    """A training's connection to its pool, made again whenever the coordinator is lost.

    While nobody answers the user is told after `patience` seconds, and TeachersGone is raised
    after `wait_seconds`.
    """

    def __init__(
        self,
        connect: Connect,
        job: PoolJob,
        key: StreamKey,
        *,
        wait_seconds: float,
        patience: float,
        label: str,
        history: Path | None,
        note: Callable[[str], None],
    ) -> None:
        self._connect, self._job, self._key = connect, job, key
        self._wait_seconds, self._patience = wait_seconds, min(patience, wait_seconds / 2)
        self._me, self._label, self._note = uuid.uuid4().hex[:12], label, note
        self._history, self._written = history, time.monotonic()
        self._finalizer: weakref.finalize[[Any, str], Link] | None = None
        self._trouble_since: float | None = None
        self._noted = False
        self._attach()

    def _attach(self) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                self._coordinator = self._connect()
                attached = self._coordinator.attach.remote(self._me, self._key, self._label)
                ray.get(attached, timeout=self._wait_seconds)
                break
            except (RayError, ValueError) as error:  # it ends just now, or cannot be placed
                if time.monotonic() >= deadline:
                    raise TeachersGone(
                        f"teacher {self._job.teacher.name}: its pool cannot be reached "
                        f"({type(error).__name__}): check the Ray cluster, and run again to resume"
                    ) from error
                time.sleep(0.2)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _detach, self._coordinator, self._me)
        self._poll = self._coordinator.collect.remote(self._me, POLL)

    def close(self) -> None:
        """Write the history and leave the pool."""
        if self._finalizer is not None and self._finalizer.alive:
            self.save_history(now=True)
            self._finalizer()

    # ------------------------------------------------------------ calls

    def submit(self, requests: list[Request], taken: list[int], withdrawn: list[int]) -> None:
        """Send new requests, and the numbers of those that are over."""
        self._coordinator.submit.remote(self._me, requests, taken, withdrawn)

    def reject(self, number: int, worker: str | None, reason: str) -> None:
        """Return an answer as wrong (a `worker` is to blame) or lost: it is made again."""
        self._coordinator.reject.remote(self._me, number, worker, reason)

    def collect(self, *, wait: bool) -> Collected | None:
        """Return what the coordinator has for this training; None where that is nothing yet.

        It has `known` False after the connection was made again: all requests must be sent again.
        """
        try:
            collected: Collected = ray.get(self._poll, timeout=5 * POLL if wait else 0)
        except GetTimeoutError:
            if wait:
                self._trouble("the pool does not answer")
            return None
        except RayActorError:
            self._trouble("the pool's coordinator is gone")
            collected = Collected([], [], 0, 0, known=False)
        if not collected.known:
            self._attach()
            return collected
        self._poll = self._coordinator.collect.remote(self._me, POLL)
        if collected.workers:
            self._trouble_since = None
        else:
            refused = f" (refused: {collected.refused})" if collected.refused else ""
            self._trouble(f"no worker is there{refused}")
        return collected

    def digests(self) -> list[str]:
        """Return the digests of the weights that the workers hold now; none if it cannot ask."""
        try:
            digests: list[str] = ray.get(self._coordinator.digests.remote(), timeout=60)
        except RayError:
            return []
        return digests

    def save_history(self, *, now: bool = False) -> None:
        """Write the pool's history if it is due, or `now`."""
        if self._history is None or not (now or time.monotonic() - self._written > HISTORY_EVERY):
            return
        self._written = time.monotonic()
        try:
            history = ray.get(self._coordinator.history.remote(), timeout=10)
        except RayError:
            return  # It is gone, and its history with it; what was written stays.
        name = f"{self._job.name}-{int(history['started'])}.json"
        write_atomically(self._history / name, canonical_json(history) + "\n")

    # ------------------------------------------------------------ patience

    def begin_waiting(self) -> None:
        """Give the workers their full time for another answer."""
        self._trouble_since, self._noted = None, False

    def end_waiting(self) -> None:
        """Tell the user that the training goes on, if it was said to wait."""
        if self._noted:
            self._note(f"teacher {self._job.teacher.name}: a worker is there, going on")

    def _trouble(self, what: str) -> None:
        """Tell the user once; raise TeachersGone at the deadline."""
        now, name = time.monotonic(), self._job.teacher.name
        if self._trouble_since is None:
            self._trouble_since = now
        if now - self._trouble_since >= self._wait_seconds:
            raise TeachersGone(
                f"teacher {name}: {what}, for {self._wait_seconds:g} s: start workers with "
                "`ktbench teacher serve`, and run again to resume"
            )
        if now - self._trouble_since >= self._patience and not self._noted:
            self._noted = True
            self._note(
                f"teacher {name}: {what}: waiting up to {self._wait_seconds:g} s for one to join "
                "(`ktbench teacher serve`)"
            )


def _detach(coordinator: Any, me: str) -> None:
    if ray.is_initialized():
        coordinator.detach.remote(me)
