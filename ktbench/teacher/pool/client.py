"""A teacher source whose answers come from a pool of workers, a little ahead of the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError

from ktbench.data import Stream
from ktbench.records import KtbenchError
from ktbench.students._contract import Features, parts
from ktbench.teacher.pool.answer_check import Expected
from ktbench.teacher.pool.link import Connect, Link
from ktbench.teacher.pool.messages import (
    Packed,
    PoolJob,
    Ready,
    Request,
    StreamKey,
    needs_bits,
    unpack,
)
from ktbench.teacher.pool.worker import plain_inputs
from ktbench.transfer_methods._contract import Batch, Needs

PATIENCE = 10.0
"""Seconds without any answer before the user is told."""
MOST_BYTES = 512e6
"""Most bytes of answers that lie ready ahead of one training."""


@dataclass(frozen=True)
class _Answer:
    features: Features
    flops: int
    seconds: float


class Pool:
    """Gives what a live teacher gives, bit for bit, in the order of the batches, each once.

    The batches that come next are known (`Stream`), so a bounded number of them is requested ahead
    of time, with what the present one needs. A batch out of that order is requested by its
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
        self._job, self._stream, self._expected = job, stream, expected
        self._last_step = epochs * stream.steps_per_epoch
        self._last_number = 0
        self._open: dict[int, Request] = {}
        """Requests by number whose answer was not given to the training yet."""
        self._numbers: dict[int, int] = {}
        """Numbers by step, of the requests in the stream's order."""
        self._ready: dict[int, Ready] = {}
        self._poisoned: dict[int, str] = {}
        self._taken: list[int] = []
        self._window, self._answer_bytes = 4, 0
        self._last = _Answer(Features(torch.empty(0)), 0, 0.0)
        self._digest_asked = False
        self._link = Link(
            connect,
            job,
            StreamKey(stream.seed, stream.batch_size, stream.views, stream.mixing),
            wait_seconds=wait_seconds,
            patience=patience,
            label=label,
            history=history,
            note=note,
        )

    # ------------------------------------------------------------ the source

    @property
    def digest(self) -> str:
        """Digest of the teacher's weights: from the second time on as the workers find them."""
        expected = self._job.identity.teacher
        if self._digest_asked:
            return next((d for d in self._link.digests() if d != expected), expected)
        self._digest_asked = True
        return expected

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the network's stages."""
        return self._expected.shapes.names

    def flops(self) -> int:
        """Return the FLOPs of a forward pass of the last batch's shape, counted by the worker."""
        return self._last.flops

    def seconds(self) -> float:
        """Return the seconds of the last batch's forward pass, on the worker."""
        return self._last.seconds

    def outputs(self, batch: Batch, needs: Needs) -> Features:
        """Return the features that a worker computed for this very batch."""
        bits = needs_bits(needs)
        if self._follows(batch):
            self._request_ahead(batch.step, bits)
            number = self._numbers.pop(batch.step)
        else:
            number = self._request_by_indices(batch, bits)
        self._last = self._wait_for(number, batch)
        self._link.save_history()
        return self._last.features

    def close(self) -> None:
        """End the training's use of the pool, and write the history."""
        self._link.close()

    # ------------------------------------------------------------ requests

    def _follows(self, batch: Batch) -> bool:
        """Return whether the stream's order has this batch at this step, augmented alike."""
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
        """Return whether the inputs are the data set's own, in their layout: a probe of shapes.

        Without augmentation the first batch has the same values; but strides choose kernels, and
        so bits.
        """
        plain = plain_inputs(self._stream.dataset, batch.indices.cpu())
        return all(
            ours.stride() == theirs.stride() and torch.equal(ours.cpu(), theirs.cpu())
            for ours, theirs in zip(parts(batch.inputs), parts(plain), strict=True)
        )

    def _request_ahead(self, step: int, bits: int) -> None:
        """Request this step and those that come next; withdraw what is no longer of use."""
        stale = [
            number
            for at, number in self._numbers.items()
            if at < step or self._open[number].needs & bits != bits
        ]
        for number in stale:
            self._drop(number)
        self._numbers = {at: n for at, n in self._numbers.items() if n in self._open}
        ahead = self._window
        if self._answer_bytes:
            ahead = max(2, min(ahead, int(MOST_BYTES / self._answer_bytes)))
        end = max(step + 1, min(step + ahead, self._last_step))
        requests = [self._new(at, bits) for at in range(step, end) if at not in self._numbers]
        for request in requests:
            self._numbers[request.step] = request.number
        if requests or stale or self._taken:
            self._submit(requests, stale)

    def _request_by_indices(self, batch: Batch, bits: int) -> int:
        rows = batch.indices.cpu().to(torch.int32).numpy().tobytes()
        plain = batch.step == 0 and self._is_plain(batch)
        request = self._new(batch.step, bits, rows=rows, plain=plain)
        self._submit([request], [])
        return request.number

    def _new(self, step: int, bits: int, *, rows: bytes = b"", plain: bool = False) -> Request:
        self._last_number += 1
        request = Request(self._last_number, step, bits, rows, plain)
        self._open[request.number] = request
        return request

    def _drop(self, number: int) -> None:
        self._open.pop(number, None)
        self._ready.pop(number, None)
        self._poisoned.pop(number, None)

    def _submit(self, requests: list[Request], withdrawn: list[int]) -> None:
        taken, self._taken = self._taken, []
        self._link.submit(requests, taken, withdrawn)

    # ------------------------------------------------------------ answers

    def _wait_for(self, number: int, batch: Batch) -> _Answer:
        self._link.begin_waiting()
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
                    self._taken.append(number)
                    self._link.end_waiting()
                    return answer
            self._collect(wait=number not in self._ready)

    def _fetch(self, ready: Ready, batch: Batch) -> _Answer | None:
        """Return the answer if it arrives whole and right; else reject it, to get another."""
        blamed, request = None, self._open[ready.number]
        try:
            packed = ray.get(ready.answer[0], timeout=60)
            blamed = ready.worker
            features = self._read(packed, request, batch)
            return _Answer(features, packed.flops, packed.seconds)
        except RayError as error:
            reason = f"its answer was lost: {type(error).__name__}"
        except Exception as error:  # garbage can make reading it fail in any way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        self._link.reject(ready.number, blamed, reason)
        return None

    def _read(self, packed: Packed, request: Request, batch: Batch) -> Features:
        if not isinstance(packed, Packed):
            raise KtbenchError(f"a {type(packed).__name__} is no answer")
        features = unpack(packed, batch.indices.device)
        self._expected.check(features, request, rows=len(batch.indices))
        self._answer_bytes = packed.nbytes
        return features

    def _collect(self, *, wait: bool) -> None:
        """Take in what the coordinator has for this training."""
        collected = self._link.collect(wait=wait)
        if collected is None:
            return
        if not collected.known:
            self._ready.clear()
            self._taken.clear()
            if self._open:
                self._submit(list(self._open.values()), [])
            return
        self._window = collected.window
        for ready in collected.ready:
            if ready.number in self._open:
                self._ready[ready.number] = ready
        if collected.ready:  # Begin to bring them here, without waiting for it.
            references = [ready.answer[0] for ready in collected.ready]
            ray.wait(references, num_returns=len(references), timeout=0)
        self._poisoned |= {n: why for n, why in collected.poisoned if n in self._open}
