"""Eight students as a cohort take less than eight times one's memory, and stay under `--memory`.

Peaks of a process's resident memory (a fresh process each) beyond what it holds before training,
for one student, for eight as a cohort, and for the eight under a limit between the two. Beside
each stands what the measured steps let one expect.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from benchmarks._claim import Outcome

CELLS = 8
STUDENT = "vgg11"
"""It keeps 115 MB between steps: so that a cohort has something to bound."""
_PROGRAM = """
import json, resource, sys, tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import _pair
from ktbench.data import Stream
from ktbench.records import Checkpoint, Item
from ktbench.train import TrainingContext, train_cohort
from ktbench.train.device_placement import make_probe
from ktbench.train.memory_budget import Budget
from ktbench.train.memory_probe import cohort_bytes, measure
from ktbench.train.start import TraineeBuilder

count, room, student, root = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
torch.set_num_threads(1)
data = _pair.images(2)
teacher, stream, places = _pair.teacher(data), Stream(data, 0, _pair.BATCH), _pair.Below(root)
context = TrainingContext(dataset=data, teacher=teacher, places=places, base=Path(), note=print)
builder = TraineeBuilder(context, make_probe(stream))
assert builder.shared.teacher_features is not None  # the first pass loads what stays for good
held = 1 - Budget.here(1).room
item = Item(name=student)
cells = [c.model_copy(update={"student": item}) for c in _pair.cells(data)[:count]]
notes = []
limited = replace(context, note=notes.append, memory=held + room if room else None)
made = train_cohort(cells, limited)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held
digests = [x.digest for x in made if isinstance(x, Checkpoint)]
assert len(digests) == count, made
shared, needs = measure(cells[:1], builder.build, stream, teacher) if not room else (None, None)
expected = [cohort_bytes(shared, needs * n) for n in (1, count)] if shared else []
print(json.dumps({"peak": peak, "expected": expected, "notes": notes, "digests": digests}))
"""


@dataclass(frozen=True)
class Trained:
    """A process's report of its training."""

    peak: int
    expected: list[int]
    """Bytes for one cell and for all; nothing under a limit."""
    notes: list[str]
    digests: list[str]


def train(count: int, room: int = 0) -> Trained:
    """Train `count` cells in a process of their own, under a limit of `room` bytes if not 0."""
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(count), str(room), STUDENT, folder],
            capture_output=True,
            text=True,
            check=True,
        )
    return Trained(**json.loads(answer.stdout.splitlines()[-1]))


def run() -> Outcome:
    """Three trainings; the third's limit is the mean of the estimates for one and for eight."""
    one, eight = train(1), train(CELLS)
    low, high = eight.expected
    room = (low + high) // 2
    limited = train(CELLS, room)
    peaks = [one.peak, eight.peak, limited.peak]
    rows = (("one", low), (f"{CELLS} as a cohort", high), (f"{CELLS} under the limit", room))
    for (name, expected), peak in zip(rows, peaks, strict=True):
        print(f"{name:<20}{peak / 1e6:>7.0f} MB   {expected / 1e6:>7.0f} MB expected at most")
    for line in limited.notes:
        print(line)
    if limited.digests != eight.digests:
        raise RuntimeError("a limit changed the weights")
    ratio = peaks[1] / peaks[0]
    return Outcome(
        f"{ratio:.2f} times one, under a limit {peaks[2] / room:.2f} of it",
        f"< {CELLS} times, <= 1 of the limit",
        ratio < CELLS and peaks[2] <= room,
    )
