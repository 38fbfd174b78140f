"""The messages that ask for a batch take at most 1 % of the bytes of the batch's images.

A real source asks a real worker for batches of 64 colour images of 32 x 32. Every message on the
way of a question is pickled once more and measured: what the training sends the coordinator
(questions, receipts, polls) and what the coordinator sends the worker. The answer comes back
whether images or indices were sent, so it is told apart.

Beside it stands what the kernel counted on the sockets between the three processes (`ss`), where
Ray frames every call with some 600 bytes of its own, and what went to Ray's own services.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks._claim import Outcome
from benchmarks._pool import Lesson, OpenPool, cluster_of, random_images
from ktbench.records import Item, TrainSpec
from ktbench.teacher.pool.coordinator import Coordinator
from ktbench.train.device_placement import make_batch
from ktbench.transfer_methods._contract import Needs

BAR = 0.01
BATCH, WARM, MEASURED = 64, 40, 200
_CPU = torch.device("cpu")
_PEERS = re.compile(r"(\S+:\d+)\s+(\S+:\d+)\s+users:.*?pid=(\d+)")
_SENT = re.compile(r"\bbytes_sent:(\d+)")

Flows = Counter[tuple[int, int]]
"""Bytes from one process to another; process 0 is any other."""


class _Known(Coordinator):
    """The pool's coordinator, which can be found among the processes."""

    said = 0

    async def process(self) -> int:
        """Return the number of this process."""
        return os.getpid()

    async def bytes_said(self) -> int:
        """Return the bytes of all requests that workers were sent."""
        return self.said

    def _send(self, task: int, worker: str) -> None:
        student, request = self._requests[task]
        self.said += len(pickle.dumps((self._clients[student].key, request)))
        super()._send(task, worker)


class _Counting:
    """The coordinator's handle, which counts what it is sent."""

    def __init__(self, handle: Any) -> None:
        self._handle, self.said = handle, 0

    def __getattr__(self, name: str) -> Any:
        return _Method(self, getattr(self._handle, name))


class _Method:
    def __init__(self, owner: _Counting, method: Any) -> None:
        self._owner, self._method = owner, method

    def remote(self, *arguments: Any) -> Any:
        """Call it."""
        self._owner.said += len(pickle.dumps(arguments))
        return self._method.remote(*arguments)


def flows(processes: set[int]) -> Flows:
    """Return the bytes that the open connections of some processes have carried so far."""
    shown = subprocess.run(["ss", "-tniHp"], capture_output=True, text=True, check=True).stdout
    sent, owner, ends = Counter[tuple[str, str]](), dict[str, int](), dict[str, str]()
    peers = None
    for line in shown.splitlines():
        if found := _PEERS.search(line):
            peers = found[1], found[2]
            owner[found[1]], ends[found[1]] = int(found[3]), found[2]
        elif peers is not None and (count := _SENT.search(line)):
            sent[peers] = int(count[1])
    total = Flows()
    for (here, there), carried in sent.items():
        ours, theirs = owner[here], owner.get(there, 0)
        if ours in processes:
            total[ours, theirs if theirs in processes else 0] += carried
    return total


def _ask(source: Any, lesson: Lesson, steps: range) -> None:
    stream = lesson.stream()
    for step in steps:
        epoch, number = divmod(step, stream.steps_per_epoch)
        indices = stream.order(epoch)[number]
        batch = make_batch(stream, indices, epoch=epoch, step=step, steps=10**6, device=_CPU)
        source.outputs(batch, Needs(logits=True))


def _measured(lesson: Lesson) -> tuple[Flows, dict[str, int], tuple[float, float]]:
    """Bytes by sockets while batches were asked for, who is who, and bytes by messages."""
    pool = OpenPool(lesson, kind=_Known)
    pool.join("w0")
    pool.wait_for(lambda: len(pool.workers()) == 1)
    who = {
        "training": os.getpid(),
        "coordinator": ray.get(pool.coordinator.process.remote()),
        "worker": int(pool.workers()["w0"]["process"]),
    }
    counting = _Counting(pool.coordinator)
    source = pool.source(epochs=1000, coordinator=counting)
    _ask(source, lesson, range(WARM))
    time.sleep(1)
    before = flows(set(who.values()))
    said = counting.said, ray.get(pool.coordinator.bytes_said.remote())
    _ask(source, lesson, range(WARM, WARM + MEASURED))
    after = flows(set(who.values()))
    messages = (
        (counting.said - said[0]) / MEASURED,
        (ray.get(pool.coordinator.bytes_said.remote()) - said[1]) / MEASURED,
    )
    source.close()
    pool.end()
    after.subtract(before)
    return after, who, messages


def run() -> Outcome:
    """A real source and a real worker, batch after batch."""
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        lesson = Lesson.of(
            random_images(Path(folder), count=680),
            teacher=Item(name="resnet8"),
            student=Item(name="resnet8"),
            train=TrainSpec(epochs=1000, batch_size=BATCH),
        )
        pixels = BATCH * lesson.dataset.signature.values
        found, who, messages = _measured(lesson)

    def per_batch(sender: str, receiver: str) -> float:
        return found[who[sender], who[receiver] if receiver else 0] / MEASURED

    sockets = per_batch("training", "coordinator") + per_batch("coordinator", "worker")
    answer = per_batch("worker", "coordinator") + per_batch("coordinator", "training")
    sockets += per_batch("training", "worker")
    answer += per_batch("worker", "training")
    services = sum(per_batch(name, "") for name in who)
    share = sum(messages) / pixels
    print(f"images of a batch: {pixels:,} bytes as uint8, {4 * pixels:,} as float32")
    print(f"messages, training to coordinator: {messages[0]:,.0f} bytes per batch")
    print(f"messages, coordinator to worker:   {messages[1]:,.0f} bytes per batch")
    print(
        f"sockets, the question's way, Ray's framing included: {sockets:,.0f} bytes per batch "
        f"({100 * sockets / pixels:.2f} % of uint8, {100 * sockets / pixels / 4:.2f} % of float32)"
    )
    print(f"sockets, the answer's way: {answer:,.0f} bytes per batch (logits: 64 x 10 x 4 = 2,560)")
    print(f"sockets, to Ray's own services: {services:,.0f} bytes per batch")
    return Outcome(
        f"{100 * share:.2f} % of the uint8 images ({100 * share / 4:.2f} % of float32); on the "
        f"sockets, with Ray's framing, {100 * sockets / pixels:.2f} %",
        f"<= {100 * BAR:.0f} % of the uint8 images, by messages",
        share <= BAR,
    )
