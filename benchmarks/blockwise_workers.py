"""Two Ray workers of one thread each train a network's blocks 1.7 times as fast as one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._blocks import BLOCKS, Side, loads_of, subject, trained
from benchmarks._claim import Outcome
from ktbench.blockwise.schedule import handed_on, speedup
from ktbench.records import BlockRun, Item

BAR = 1.7
ROUNDS = 2
EPOCHS = 12
"""Long enough that a job's start, and the first batch that is handed on, weigh little."""
NETWORK = Item(name="vgg19", settings={"width": 0.5})


def run() -> Outcome:
    """The blocks of a VGG-19 in one relay, and cut in two, handed on from worker to worker.

    One pass of the teacher serves both workers; the replay on measured times says what a cut
    between blocks can give.
    """
    how = BlockRun(schedule="contiguous")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        of = subject(Path(folder), NETWORK, BLOCKS.model_copy(update={"epochs": EPOCHS}))
        loads = loads_of(of)
        reach = speedup(handed_on(loads, 2), loads, "handed_on")
        for number in range(ROUNDS):
            for workers, taken in seconds.items():
                spent, digests = trained(
                    of, Side(workers, how), Path(folder, f"{number}-{workers}")
                )
                taken.append(spent)
                found.append(digests)
    for workers, taken in seconds.items():
        print(f"{workers} worker(s): {', '.join(f'{s:.1f}' for s in taken)} s")
    print(f"replayed on measured times: {reach:.2f}x")
    ratio = sum(seconds[1]) / sum(seconds[2])
    equal = all(digests == found[0] for digests in found)
    told = "the same blocks" if equal else "other blocks"
    return Outcome(f"{ratio:.2f}x, {told}", f">= {BAR}x, the same blocks", ratio >= BAR and equal)
