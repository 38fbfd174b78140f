"""Two processes decode photographs into a store 1.7 times as fast as one thread in a loop.

Photographs of 400 x 300 pixels, made 224 pixels a side. The one thread decodes one after the other
and stacks batches, as a loop without workers would before each step; the two processes write parts
of a store. Their start is not counted, as it is spread over a whole data set. Rounds alternate.
KTBENCH_PHOTOGRAPHS sets the number of photographs of a round, 1,000 when it is not given.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._claim import Outcome
from benchmarks._photographs import write_photographs
from ktbench import catalogue
from ktbench.data.decoding import Part, Work, digest_of_texts, identities, write_parts
from ktbench.data.encoded import threads
from ktbench.records import DataSpec
from ktbench.tasks._contract import Labels, Source

BAR = 1.7
ROUNDS = 3
WORKERS = 2
"""Processes; a machine with fewer cores cannot show the claim."""
BATCH, SIDE = 32, 224


def in_a_loop(source: Source, batches: list[Labels]) -> float:
    """Images a second of one thread that decodes batch by batch."""
    before = threads.set(1)
    began = time.perf_counter()
    for rows in batches:
        source.read("train", rows)
    seconds = time.perf_counter() - began
    threads.reset(before)
    return BATCH * len(batches) / seconds


def by_processes(source: Source, work: Work, batches: list[Labels]) -> float:
    """Images a second of the processes, from when each has written its first part."""
    parts = [
        Part(number, rows, digest_of_texts(identities(source, "train", rows)))
        for number, rows in enumerate(batches)
    ]
    times = [time.perf_counter() for _ in write_parts(source, work, parts, WORKERS)]
    counted = times[WORKERS - 1 :]
    return BATCH * (len(counted) - 1) / (counted[-1] - counted[0])


def run() -> Outcome:
    """Alternate both sides on the same files."""
    count = int(os.environ.get("KTBENCH_PHOTOGRAPHS", "1000"))
    slow, fast = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "photographs")
        write_photographs(folder, count, side=300, longer=100)
        spec = DataSpec(source="folder", path=str(folder), image_size=SIDE)
        source = catalogue.task(spec.task).open(spec, Path())
        rows = np.arange(count // BATCH * BATCH, dtype=np.int64)
        batches = list(rows.reshape(-1, BATCH))
        file = Path(name, "pixels")
        work = Work(spec, Path(), "train", (3, SIDE, SIDE), file, BATCH)
        for _ in range(ROUNDS):
            file.write_bytes(b"")
            slow.append(in_a_loop(source, batches))
            fast.append(by_processes(source, work, batches))
    one, two = statistics.median(slow), statistics.median(fast)
    print(f"one thread in a loop {one:>8.0f} images a second")
    print(f"{WORKERS} processes          {two:>8.0f} images a second")
    return Outcome(f"{two / one:.2f}x", f">= {BAR:g}x", two / one >= BAR)
