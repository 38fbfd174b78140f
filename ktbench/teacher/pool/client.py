"""A teacher source whose answers come from a pool of workers, a little ahead of the training."""

from __future__ import annotations

import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from ktbench.data import Stream
from ktbench.records import KtbenchError, StorageError, canonical_json
from ktbench.students._contract import Features
from ktbench.system.files import write_atomically
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.messages import (
    Ask,
    Packed,
    PoolJob,
    StreamKey,
    needs_bits,
    unpack,
)
from ktbench.teacher.pool.registry import Collected, Ready
from ktbench.teacher.pool.worker import plain_inputs
from ktbench.transfer_methods._contract import Batch, Needs

POLL = 1.0
"""How long the coordinator keeps a question for answers open."""
PATIENCE = 10.0
"""How long nobody answers before the user is told."""
HISTORY_EVERY = 20.0
"""Seconds between two writings of the pool's history, in a folder beside the results."""
MOST_BYTES = 512e6
"""Of answers that lie ready ahead of one training."""

Connect = Callable[[], Any]
"""Finds the pool's coordinator, or starts one."""


class TeachersGone(StorageError):  # noqa: N818 - a state of the world, not a program error
    """No worker came in time. As with a full disk the run stops: its saved work stays."""


@dataclass
class _Answer:
    features: Features
    flops: int
    seconds: float


class Pool:
    """Gives what a live teacher gives, bit for bit, in the order of the batches, each once.

    The batches that come next are known (`Stream`), so a bounded number of them is asked for ahead
    of time, with what the present one needs. Whatever is out of that order is asked for by its
    indices. Without a worker `outputs` waits, and raises TeachersGone after `wait_seconds`;
    a batch that no worker can answer raises KtbenchError.
    """

    def __init__(
        self,
        connect: Connect,
        job: PoolJob,
        *,
        stream: Stream,
        expected: Expected,
        epochs: int,
        wait_seconds: float = 300.0,
        patience: float = PATIENCE,
        label: str = "",
        history: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connect, self._job, self._stream = connect, job, stream
        self._expected, self._note = expected, note
        self._wait_seconds, self._patience = wait_seconds, min(patience, wait_seconds / 2)
        self._last_step = epochs * stream.steps_per_epoch
        self._history, self._written = history, time.monotonic()
        self._me, self._label = uuid.uuid4().hex[:12], label
        self._key = StreamKey(stream.seed, stream.batch_size, stream.views)
        self._numbers = 0
        self._open: dict[int, Ask] = {}
        """By number: asked for, and not given to the training."""
        self._steps: dict[int, int] = {}
        """Numbers by step, of those in the stream's order."""
        self._ready: dict[int, Ready] = {}
        self._poisoned: dict[int, str] = {}
        self._took: list[int] = []
        self._window, self._bytes = 4, 0
        self._last = _Answer(Features(torch.empty(0)), 0, 0.0)
        self._plain: dict[tuple[int, int], Features] = {}
        self._checked = False
        self._finalizer: weakref.finalize[[Any, str], Pool] | None = None
        self._troubled: float | None = None
        self._told = False
        self._attach()

    # ------------------------------------------------------------ the source

    @property
    def digest(self) -> str:
        """Of the teacher's weights: after the first time as the workers find them now."""
        ours = self._job.identity.teacher
        if self._checked:
            try:
                found = ray.get(self._pool.digests.remote(), timeout=60)
            except RayError:
                found = []
            return next((digest for digest in found if digest != ours), ours)
        self._checked = True
        return ours

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The network's own."""
        return self._expected.shapes.names

    def flops(self) -> int:
        """Of one forward pass of the last batch's shape, as the worker counted it."""
        return self._last.flops

    def seconds(self) -> float:
        """Of the last batch's forward pass, on the worker."""
        return self._last.seconds

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """The features that a worker had for this very batch."""
        bits = needs_bits(needs)
        if self._follows(batch):
            self._ask_ahead(batch.step, bits)
            number = self._steps.pop(batch.step)
        else:
            number = self._ask_apart(batch, bits)
        self._last = self._wait_for(number, batch)
        self._keep_history()
        return self._last.features

    def close(self) -> None:
        """The training is over: nothing more is wanted, and the history is written."""
        if self._finalizer is not None and self._finalizer.alive:
            self._keep_history(now=True)
            self._finalizer()

    # ------------------------------------------------------------ asking

    def _follows(self, batch: Batch) -> bool:
        """Whether the stream's order has this batch at this step, augmented as it has it."""
        epoch, number = divmod(batch.step, self._stream.steps_per_epoch)
        if epoch != batch.epoch or len(batch.indices) != len(self._order(epoch)[number]):
            return False
        same = torch.equal(batch.indices.cpu(), self._order(epoch)[number])
        return same and (batch.step > 0 or not self._is_plain(batch))

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch != getattr(self, "_epoch", None):
            self._epoch, self._epoch_order = epoch, self._stream.order(epoch)
        return self._epoch_order

    def _is_plain(self, batch: Batch) -> bool:
        """Whether the images are as they are in the data set, in their layout: a probe of shapes.

        Without augmentation the first batch has the same values; but strides choose kernels, and
        so bits.
        """
        images = plain_inputs(self._stream.dataset, batch.indices.cpu())
        same = batch.inputs.stride() == images.stride()
        return same and torch.equal(batch.inputs.cpu(), images.cpu())

    def _ask_ahead(self, step: int, bits: int) -> None:
        """Ask for this step and those that come next; let go of what was asked in vain."""
        stale = [
            number
            for at, number in self._steps.items()
            if at < step or self._open[number].needs & bits != bits
        ]
        for number in stale:
            self._drop(number)
        self._steps = {at: n for at, n in self._steps.items() if n in self._open}
        ahead = self._window
        if self._bytes:
            ahead = max(2, min(ahead, int(MOST_BYTES / self._bytes)))
        last = max(step + 1, min(step + ahead, self._last_step))
        asks = [self._new(at, bits) for at in range(step, last) if at not in self._steps]
        for ask in asks:
            self._steps[ask.step] = ask.number
        if asks or stale or self._took:
            self._send(asks, stale)

    def _ask_apart(self, batch: Batch, bits: int) -> int:
        """Ask for a batch by its indices."""
        rows = batch.indices.cpu().to(torch.int32).numpy().tobytes()
        plain = batch.step == 0 and self._is_plain(batch)
        ask = self._new(batch.step, bits, rows=rows, plain=plain)
        self._send([ask], [])
        return ask.number

    def _new(self, step: int, bits: int, *, rows: bytes = b"", plain: bool = False) -> Ask:
        self._numbers += 1
        ask = Ask(self._numbers, step, bits, rows, plain)
        self._open[ask.number] = ask
        return ask

    def _drop(self, number: int) -> None:
        for kept in (self._open, self._ready, self._poisoned):
            kept.pop(number, None)

    def _send(self, asks: list[Ask], withdrawn: list[int]) -> None:
        took, self._took = self._took, []
        self._pool.submit.remote(self._me, asks, took, withdrawn)

    # ------------------------------------------------------------ waiting

    def _wait_for(self, number: int, batch: Batch) -> _Answer:
        self._troubled, self._told = None, False
        while True:
            if number in self._poisoned:
                reason = self._poisoned.pop(number)
                self._drop(number)
                raise KtbenchError(
                    f"teacher {self._job.teacher.name}: no worker can answer the batch of step "
                    f"{batch.step}: {reason}"
                )
            if number in self._ready:
                answer = self._fetch(self._ready.pop(number), batch)
                if answer is not None:
                    self._drop(number)
                    self._took.append(number)
                    if self._told:
                        self._note(f"teacher {self._job.teacher.name}: a worker is there, going on")
                    return answer
            self._listen(wait=number not in self._ready)

    def _fetch(self, ready: Ready, batch: Batch) -> _Answer | None:
        """The answer, if it came whole and is one; else it is asked for again."""
        blame, packed = None, None
        ask = self._open[ready.number]
        try:
            packed = ray.get(ready.answer[0], timeout=60)
            blame = ready.worker
            features = self._read(packed, ask, batch)
            return _Answer(features, packed.flops, packed.seconds)
        except RayError as error:
            reason = f"its answer was lost: {type(error).__name__}"
        except Exception as error:  # garbage can make reading it fail in any way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        self._pool.reject.remote(self._me, ready.number, blame, reason)
        return None

    def _read(self, packed: Packed, ask: Ask, batch: Batch) -> Features:
        if not isinstance(packed, Packed):
            raise KtbenchError(f"a {type(packed).__name__} is no answer")
        features = unpack(packed, batch.inputs.device)
        self._expected.check(features, ask, rows=len(batch.indices))
        self._bytes = packed.nbytes
        return features

    def _listen(self, *, wait: bool) -> None:
        """Take in what the coordinator has; notice when nobody is there."""
        try:
            collected = ray.get(self._poll, timeout=5 * POLL if wait else 0)
        except GetTimeoutError:
            if wait:
                self._trouble("the pool does not answer")
            return
        except RayActorError:
            self._trouble("the pool's coordinator is gone")
            self._attach()
            return
        self._take_in(collected)

    def _take_in(self, collected: Collected) -> None:
        if not collected.known:
            self._attach()
            return
        self._poll = self._pool.collect.remote(self._me, POLL)
        self._window = collected.window
        for ready in collected.ready:
            if ready.number in self._open:
                self._ready[ready.number] = ready
        if collected.ready:  # Begin to bring them here, without waiting for it.
            references = [ready.answer[0] for ready in collected.ready]
            ray.wait(references, num_returns=len(references), timeout=0)
        self._poisoned |= {n: why for n, why in collected.poisoned if n in self._open}
        if collected.workers:
            self._troubled = None
        else:
            refused = f" (refused: {collected.refused})" if collected.refused else ""
            self._trouble(f"no worker is there{refused}")

    def _trouble(self, what: str) -> None:
        """Tell the user once; give up at the deadline."""
        now = time.monotonic()
        if self._troubled is None:
            self._troubled = now
        name = self._job.teacher.name
        if now - self._troubled >= self._wait_seconds:
            raise TeachersGone(
                f"teacher {name}: {what}, for {self._wait_seconds:g} s: start workers with "
                "`ktbench teacher serve`, and run again to go on"
            )
        if now - self._troubled >= self._patience and not self._told:
            self._told = True
            self._note(
                f"teacher {name}: {what}: waiting up to {self._wait_seconds:g} s for one to join "
                "(`ktbench teacher serve`)"
            )

    def _attach(self) -> None:
        """Make this training known, with all that it still waits for."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                self._pool = self._connect()
                known = self._pool.attach.remote(self._me, self._key, self._label)
                ray.get(known, timeout=self._wait_seconds)
                break
            except (RayError, ValueError) as error:  # it ends just now, or cannot be placed
                if time.monotonic() >= deadline:
                    raise TeachersGone(
                        f"teacher {self._job.teacher.name}: its pool cannot be reached "
                        f"({type(error).__name__}): look at the Ray cluster, and run again to go on"
                    ) from error
                time.sleep(0.2)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _detach, self._pool, self._me)
        self._ready.clear()
        self._took.clear()
        if self._open:
            self._send(list(self._open.values()), [])
        self._poll = self._pool.collect.remote(self._me, POLL)

    # ------------------------------------------------------------ history

    def _keep_history(self, *, now: bool = False) -> None:
        if self._history is None or not (now or time.monotonic() - self._written > HISTORY_EVERY):
            return
        self._written = time.monotonic()
        try:
            found = ray.get(self._pool.history.remote(), timeout=10)
        except RayError:
            return  # It is gone, and its history with it; what was written stays.
        name = f"{self._job.name}-{int(found['started'])}.json"
        write_atomically(self._history / name, canonical_json(found) + "\n")


def _detach(pool: Any, student: str) -> None:
    if ray.is_initialized():
        pool.detach.remote(student)
