"""What a batch's question takes on the wire is at most 1 % of the batch's images.

Bytes that left and reached the sockets between the training, the coordinator and a worker, as the
kernel counts them per connection (`ss`), while a real source asks for batches of 64 colour images
of 32 x 32: Ray's own framing of every call is in them. A question goes through two hops, from the
training to the coordinator and on to the worker, and both are counted. The answer comes back
whether images or indices were sent, so it is told apart; so is what goes to Ray's own services.
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
from ktbench.teacher.pool.messages import Ask
from ktbench.train.placing import make_batch
from transfer_methods._contract import Needs

BAR = 0.01
BATCH, WARM, MEASURED = 64, 40, 200
_CPU = torch.device("cpu")
_PEERS = re.compile(r"(\S+:\d+)\s+(\S+:\d+)\s+users:.*?pid=(\d+)")
_SENT = re.compile(r"\bbytes_sent:(\d+)")

Flows = Counter[tuple[int, int]]
"""Bytes from one process to another; process 0 is any other."""


class _Known(Coordinator):
    """The pool's coordinator, which can be found among the processes."""

    async def process(self) -> int:
        """Its number."""
        return os.getpid()


def flows(processes: set[int]) -> Flows:
    """What the open connections of some processes have carried so far."""
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
    for (here, there), count in sent.items():
        ours, theirs = owner[here], owner.get(there, 0)
        if ours in processes:
            total[ours, theirs if theirs in processes else 0] += count
    return total


def _ask(source: Any, lesson: Lesson, steps: range) -> None:
    stream = lesson.stream()
    for step in steps:
        epoch, number = divmod(step, stream.steps_per_epoch)
        indices = stream.order(epoch)[number]
        batch = make_batch(stream, indices, epoch=epoch, step=step, steps=10**6, device=_CPU)
        source.outputs(batch, Needs(logits=True))


def _measured(lesson: Lesson) -> tuple[Flows, dict[str, int]]:
    """Bytes per direction while the batches were asked for, and who is who."""
    pool = OpenPool(lesson, kind=_Known)
    pool.join("w0")
    pool.wait_for(lambda: len(pool.workers()) == 1)
    who = {
        "training": os.getpid(),
        "coordinator": ray.get(pool.coordinator.process.remote()),
        "worker": int(pool.workers()["w0"]["process"]),
    }
    source = pool.source(epochs=1000)
    _ask(source, lesson, range(WARM))
    time.sleep(1)
    before = flows(set(who.values()))
    _ask(source, lesson, range(WARM, WARM + MEASURED))
    after = flows(set(who.values()))
    source.close()
    pool.end()
    after.subtract(before)
    return after, who


def run() -> Outcome:
    """A real source and a real worker, batch after batch."""
    with tempfile.TemporaryDirectory() as folder, cluster_of(2):
        lesson = Lesson.of(
            random_images(Path(folder), count=680),
            teacher=Item(name="resnet8"),
            student=Item(name="resnet8"),
            train=TrainSpec(epochs=1000, batch_size=BATCH),
        )
        pixels = BATCH * lesson.dataset.images("train")[0].numel()
        found, who = _measured(lesson)

    def per_batch(sender: str, receiver: str) -> float:
        return found[who[sender], who[receiver] if receiver else 0] / MEASURED

    question = per_batch("training", "coordinator") + per_batch("coordinator", "worker")
    answer = per_batch("worker", "coordinator") + per_batch("coordinator", "training")
    across = per_batch("training", "worker"), per_batch("worker", "training")
    services = sum(per_batch(name, "") for name in who)
    message = len(pickle.dumps(Ask(10**6, 10**6, 1)))
    print(f"images of a batch: {pixels:,} bytes as uint8, {4 * pixels:,} as float32")
    print(f"question, training to coordinator: {per_batch('training', 'coordinator'):,.0f} bytes")
    print(f"question, coordinator to worker:   {per_batch('coordinator', 'worker'):,.0f} bytes")
    print(f"  of which the message itself, pickled, is {message} bytes in each")
    print(f"answer, worker to training:        {answer:,.0f} bytes ({BATCH} x 10 logits: 2,560)")
    print(f"training and worker directly:      {across[0]:,.0f} and {across[1]:,.0f} bytes")
    print(f"to Ray's own services:             {services:,.0f} bytes")
    share = (question + across[0]) / pixels
    return Outcome(
        f"{100 * share:.2f} % of the uint8 images ({100 * share / 4:.2f} % of float32)",
        f"<= {100 * BAR:.0f} % of the uint8 images",
        share <= BAR,
    )
