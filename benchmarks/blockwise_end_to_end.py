"""Relay on two workers trains a ResNet-56's blocks 3.5 times as fast as the study's way.

The study's way is that of its single machine: one worker trains block after block, and runs the
teacher up to each again. It has the same two cores, through threads; what it takes with one thread
is printed too, as only then are the blocks the same. The more blocks a network has, the more passes
a relay saves: a VGG-19, with 15, is printed beside it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._blocks import BLOCKS, Side, subject, trained
from benchmarks._claim import Outcome
from ktbench.records import BlockRun, Item

BAR = 3.5
JUDGED = Item(name="resnet56")
BESIDE = Item(name="vgg19", settings={"width": 0.5})
OURS = Side(2, BlockRun(feed="relay", schedule="contiguous"))
TWO_THREADS = Side(1, BlockRun(feed="prefix"), threads=2)
ONE_THREAD = Side(1, BlockRun(feed="prefix"), threads=1)
SIDES = {"ours": OURS, "the study's way": TWO_THREADS, "the study's way on one core": ONE_THREAD}


def run() -> Outcome:
    """All blocks of both networks, each way; blocks are compared where the threads are equal."""
    _compared(BESIDE, epochs=4)
    ratio, equal = _compared(JUDGED, epochs=2)
    told = "the same blocks" if equal else "other blocks"
    return Outcome(f"{ratio:.2f}x, {told}", f">= {BAR}x, the same blocks", ratio >= BAR and equal)


def _compared(network: Item, epochs: int) -> tuple[float, bool]:
    """Compare ours with the study's way on both cores: speedup, and whether blocks are the same."""
    train = BLOCKS.model_copy(update={"epochs": epochs, "splice_every": epochs})
    seconds: dict[Side, float] = {}
    blocks: dict[Side, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        of = subject(Path(folder), network, train)
        count = len(of.whole.tasks)
        for number, (name, side) in enumerate(SIDES.items()):
            seconds[side], blocks[side] = trained(of, side, Path(folder, str(number)))
            print(
                f"{network.label}, {count} blocks: {name} ({side.label}): {seconds[side]:.1f} s",
                flush=True,
            )
    both, one = (seconds[side] / seconds[OURS] for side in (TWO_THREADS, ONE_THREAD))
    print(f"{network.label}: {both:.2f}x on the same two cores, {one:.2f}x against one core")
    return both, blocks[OURS] == blocks[ONE_THREAD]
