"""One distillation step with a live teacher takes at most 1/1.15 of a plain PyTorch loop's.

wrn_40_2 teaches wrn_16_2 by Hinton's distillation: 64 images of 32 x 32, 100 classes, single
precision, one thread. Ours is `Live.outputs` and `Trainee.step` as the training loop calls them;
the plain loop has the same maths on contiguous tensors. Both get the same augmented batch, made
before either's clock runs. Rounds interleave all sides; a figure is the median of its rounds.

`KTBENCH_STEP=quick` takes a small pair, so that a test can run it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._claim import Outcome
from benchmarks._networks import Ours, Pair, Plain, batches, cell_of, images_of, network
from ktbench.networks.numeric import prepare
from ktbench.records import Item, NumericSpec
from ktbench.students._contract import Student, parts
from ktbench.transfer_methods._contract import Batch

BAR = 1.15
ROUNDS = 15
FIRST = 3
"""Steps before the clock runs, after which both sides' losses are compared."""
QUICK = Pair(teacher="resnet14", student="resnet8", image=16, batch=16, images=160)
COMPILED = NumericSpec(compile=True)


class Sides:
    """The plain loop and ours, eager and compiled, from the same weights."""

    def __init__(self, pair: Pair) -> None:
        data = images_of(pair)
        taught = network(pair.teacher, pair.classes, seed=1).state_dict()

        def teacher() -> Student:
            made = network(pair.teacher, pair.classes)
            made.load_state_dict(taught)
            return made

        def ours(numeric: NumericSpec) -> Ours:
            prepare(numeric)
            return Ours(
                cell_of(pair, data, method=Item(name="kd"), numeric=numeric), data, teacher()
            )

        self.eager, self.compiled = ours(NumericSpec()), ours(COMPILED)
        student = network(pair.student, pair.classes)
        student.load_state_dict(self.eager.trainee.student.state_dict())
        self.plain = Plain(self.eager.trainee.cell, student, teacher())
        self.batches = batches(data, pair, FIRST + ROUNDS + 1)
        self.contiguous = [parts(batch.inputs)[0].contiguous() for batch in self.batches]

    def takes(self) -> dict[str, Callable[[Batch], object]]:
        """A step of each side."""
        return {
            "plain": lambda batch: self.plain.step(self.contiguous[batch.step], batch.labels),
            "ours": self.eager.step,
            "ours, compiled": self.compiled.step,
        }

    def losses(self) -> dict[str, float]:
        """Each side's loss on the last batch, which none has trained on, in eval mode."""
        batch = self.batches[-1]
        students = {
            "plain": self.plain.student,
            "ours": self.eager.trainee.student,
            "ours, compiled": self.compiled.trainee.student,
        }
        found = {}
        for name, student in students.items():
            student.eval()
            with torch.no_grad():
                found[name] = float(self.plain.loss(student, parts(batch.inputs)[0], batch.labels))
            student.train()
        return found


def convolutions(take: Callable[[], object]) -> float:
    """Share of a step's processor time that convolutions and their gradients take."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        take()
    events = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    kernels = ("mkldnn_convolution", "convolution_backward")
    own = sum(e.self_cpu_time_total for e in events if any(k in e.key for k in kernels))
    return float(own / total)


def run() -> Outcome:
    """Time all sides in turn; the better of ours is held against the bar."""
    sides = Sides(QUICK if os.environ.get("KTBENCH_STEP") == "quick" else Pair())
    takes = sides.takes()
    for batch in sides.batches[:FIRST]:
        for take in takes.values():
            take(batch)
    losses = sides.losses()
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for batch in sides.batches[FIRST:-1]:
        for name, take in takes.items():
            start = time.perf_counter()
            take(batch)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    share = convolutions(lambda: takes["plain"](sides.batches[-1]))
    print(f"{'':<16}{'ms a step':>10}{'ratio':>8}{'loss after ' + str(FIRST) + ' steps':>22}")
    for name, median in medians.items():
        ratio = medians["plain"] / median
        print(f"{name:<16}{1e3 * median:>10.1f}{ratio:>8.3f}{losses[name]:>22.5f}")
    print(f"bound: {1 / share:.2f}x, were all of the plain step free but its convolutions")
    worst = max(abs(loss / losses["plain"] - 1) for loss in losses.values())
    print(f"losses differ by {worst:.1e} at most")
    best = min((name for name in medians if name != "plain"), key=lambda name: medians[name])
    ratio = medians["plain"] / medians[best]
    return Outcome(
        f"{ratio:.2f}x ({best})", f">= {BAR:g}x, the same loss", ratio >= BAR and worst < 1e-3
    )
