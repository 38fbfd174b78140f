"""Every method's own loss costs less than a plain training step; ReviewKD's, less than two.

Every method of the catalogue that suits convolutional networks, beside no transfer, on a pair of
the standard comparison (wrn_40_2 teaches wrn_16_2, batch 64, 32 x 32, one thread). Each round takes
one step of every method and one plain step; a ratio is the median over rounds of a step's processor
time by that of its own round's plain step. A method of several phases is charged its dearest.
Memory is the most bytes that a step's tensors hold at once, as torch's allocator reports them.

`KTBENCH_METHOD_COST=quick` measures a small pair on small images, so that a test can run it;
`KTBENCH_METHOD_COST=write` also writes the figures that docs/methods.md shows.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._claim import Outcome
from ktbench import catalogue
from ktbench.networks.layout import FIRST
from ktbench.students._contract import Features, Student
from ktbench.system import provenance
from ktbench.train.method_setup import scope_parameters
from ktbench.transfer_methods._contract import Batch, Phase, Setting, Shapes, TransferMethod

BAR = 1.0
EXCEPTIONS = {"reviewkd": 2.0}
"""It convolves maps of the student's deepest width at the size of its first stage."""
PLACE = Path(__file__).parent.parent / "docs" / "method_cost.json"
VARIABLE = "KTBENCH_METHOD_COST"
PLAIN = "none"

Take = Callable[[], object]
"""Takes one whole step."""
Moved = tuple[tuple[str, ...] | None, list[nn.Parameter], torch.optim.Optimizer]
"""The terms of an update, the parameters that they move, and how."""


@dataclass(frozen=True)
class Pair:
    """A measured case: two networks, a batch and the size of a training set."""

    teacher: str = "wrn_40_2"
    student: str = "wrn_16_2"
    image: int = 32
    batch: int = 64
    classes: int = 100
    train_size: int = 50_000
    rounds: int = 5


QUICK = Pair(teacher="resnet14", student="resnet8", image=8, batch=8, train_size=200, rounds=3)


@dataclass(frozen=True)
class Figures:
    """A step with a method, the teacher's pass apart, by a plain step: 1 is no transfer."""

    seconds: float
    flops: float
    memory: float
    """Cost in memory, by the most bytes that the tensors of a plain step hold at once."""
    parameters: int
    """Parameters of the adaptors, which are trained too, and left out of the export."""
    state: int
    """Bytes that the method holds between steps: adaptors and memories."""


class Bench:
    """Two networks and a batch, and steps of any method on them."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        torch.manual_seed(0)
        self.student, self.teacher = self._network(pair.student), self._network(pair.teacher)
        self.teacher.eval()
        shape = (pair.batch, 3, pair.image, pair.image)
        self.batch = Batch(
            inputs=FIRST.inputs(torch.randn(shape)),
            labels=torch.randint(pair.classes, (pair.batch,)),
            indices=torch.randperm(pair.train_size)[: pair.batch],
            epoch=1,
            step=1,
            progress=0.5,
            seed=11,
        )
        self.taught = self.teach()
        with torch.no_grad():
            ours = self.student.forward_features(self.batch.inputs, preacts=True)
        shapes = Shapes.of(ours, self.student.stage_names)
        theirs = Shapes.of(self.taught, self.teacher.stage_names)
        flat = tuple((0.0,) * len(shapes.stages) for _ in theirs.stages)
        self.setting = Setting(shapes, theirs, pair.classes, pair.train_size, pair.batch, flat)

    def _network(self, name: str) -> Student:
        network = catalogue.build_student(name, {}, num_classes=self.pair.classes, in_channels=3)
        FIRST.place(network)
        return network

    def teach(self) -> Features:
        """The teacher's pass."""
        with torch.no_grad():
            features: Features = self.teacher.forward_features(self.batch.inputs, preacts=True)
        return features

    def suits(self, name: str) -> bool:
        """True if a method can be trained with this pair, which shows no tokens."""
        config = catalogue.method_config(name, {})
        return catalogue.method(name).incompatible(config, self.setting) is None

    def method(self, name: str) -> TransferMethod:
        """A method at its defaults for this pair."""
        return catalogue.method(name)(catalogue.method_config(name, {}), self.setting)

    def steps(self, method: TransferMethod) -> list[Take]:
        """A step of each phase, as the training loop takes it; the teacher's features are there."""
        preacts = type(method).student_needs(method.config).preacts
        return [
            partial(self._step, method, preacts, *self._opened(p, method)) for p in method.phases()
        ]

    def _opened(self, phase: Phase, method: TransferMethod) -> tuple[Batch, list[Moved]]:
        """A phase's batch, and what each of its updates moves with an optimiser of its own."""
        moved: list[Moved] = []
        for update in phase.updates:
            parameters = scope_parameters(self.student, self.batch.inputs, update.student)
            parameters += [
                parameter
                for name, parameter in method.named_parameters()
                if update.adaptors is None or name.startswith(update.adaptors)
            ]
            optimiser = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)
            moved.append((update.terms, parameters, optimiser))
        return self.batch.in_phase(phase.name), moved

    def _step(
        self, method: TransferMethod, preacts: bool, batch: Batch, moved: list[Moved]
    ) -> None:
        features = self.student.forward_features(batch.inputs, preacts=preacts)
        terms = method.loss(features, self.taught, batch)
        gradients = [
            torch.autograd.grad(
                torch.stack([terms[name] for name in names or terms]).sum(),
                parameters,
                allow_unused=True,
                retain_graph=number + 1 < len(moved),
            )
            for number, (names, parameters, _) in enumerate(moved)
        ]
        for (_, parameters, optimiser), found in zip(moved, gradients, strict=True):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimiser.step()
            optimiser.zero_grad()


def seconds_of(take: Take) -> float:
    """Processor seconds of one step."""
    start = time.process_time()
    take()
    return time.process_time() - start


def flops_of(take: Take) -> int:
    """Floating-point operations of a step, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        take()
    return int(counter.get_total_flops())


def memory_of(take: Take) -> int:
    """The most bytes that tensors held at once during a step, beyond what was there before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each profile prints two lines
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        take()
    held = most = 0
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    allocations = [event for event in events if event.name() == "[memory]"]
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def measured(pair: Pair, names: tuple[str, ...]) -> dict[str, Figures]:
    """The figures of each method that suits the pair.

    Rounds go through all of them in turn, no transfer among them.
    """
    bench = Bench(pair)
    suited = filter(bench.suits, dict.fromkeys((PLAIN, *names)))
    made = {name: bench.method(name) for name in suited}
    steps = {name: bench.steps(method) for name, method in made.items()}
    for takes in steps.values():  # first steps fill caches
        for take in takes:
            take()
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(pair.rounds):
        taken = {name: max(map(seconds_of, takes)) for name, takes in steps.items()}
        for name, seconds in taken.items():
            ratios[name].append(seconds / taken[PLAIN])
    flops = {name: max(map(flops_of, takes)) for name, takes in steps.items()}
    memory = {name: max(map(memory_of, takes)) for name, takes in steps.items()}
    return {
        name: Figures(
            seconds=round(statistics.median(ratios[name]), 3),
            flops=round(flops[name] / flops[PLAIN], 3),
            memory=round(memory[name] / memory[PLAIN], 3),
            parameters=sum(p.numel() for p in made[name].parameters()),
            state=sum(t.numel() * t.element_size() for t in made[name].state_dict().values()),
        )
        for name in steps
    }


def teacher_share(pair: Pair) -> float:
    """The teacher's pass by a plain step, in processor time."""
    bench = Bench(pair)
    [plain] = bench.steps(bench.method(PLAIN))
    plain()
    rounds = range(pair.rounds)
    ratios = [seconds_of(bench.teach) / seconds_of(plain) for _ in rounds]
    return round(statistics.median(ratios), 3)


def growth(pair: Pair) -> dict[str, list[dict[str, Any]]]:
    """CRD at two sizes of the training set, NST at two sizes of the maps."""
    brief = replace(pair, rounds=3)
    sizes = (pair.train_size // 5, pair.train_size)
    images = (pair.image // 2, pair.image)
    return {
        "crd": [
            {"train_size": n} | asdict(measured(replace(brief, train_size=n), ("crd",))["crd"])
            for n in sizes
        ],
        "nst": [
            {"image": n} | asdict(measured(replace(brief, image=n), ("nst",))["nst"])
            for n in images
        ],
    }


def _show(found: dict[str, Figures]) -> None:
    print(f"{'method':<28}{'seconds':>9}{'FLOPs':>8}{'memory':>8}{'adaptors':>11}{'state':>10}")
    for name, f in sorted(found.items(), key=lambda item: item[1].seconds):
        state = f"{f.state / 1e6:.1f} MB"
        print(
            f"{name:<28}{f.seconds:>9.2f}{f.flops:>8.2f}{f.memory:>8.2f}"
            f"{f.parameters:>11,}{state:>10}"
        )


def _write(pair: Pair, found: dict[str, Figures], share: float, grown: dict[str, Any]) -> None:
    here = provenance.collect()
    facts = {
        "machine": here.processor,
        "cores": here.cores,
        "torch": here.versions["torch"],
        "pair": asdict(pair),
        "teacher": share,
        "methods": {name: asdict(figures) for name, figures in sorted(found.items())},
        "growth": grown,
    }
    PLACE.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def run() -> Outcome:
    """Measure every method; the dearest one's own loss is held against the bar."""
    wish = os.environ.get(VARIABLE, "")
    pair = QUICK if wish == "quick" else Pair()
    torch.set_num_threads(1)
    found = measured(pair, catalogue.methods())
    share, grown = teacher_share(pair), growth(pair)
    _show(found)
    print(f"the teacher's pass: {share:.2f} of a plain step")
    for name, rows in grown.items():
        for row in rows:
            print(f"{name}: " + ", ".join(f"{key} {value:,}" for key, value in row.items()))
    if wish == "write":
        _write(pair, found, share, grown)
    own = {name: figures.seconds - 1 for name, figures in found.items()}
    bars = {name: EXCEPTIONS.get(name, BAR) for name in own}
    nearest = max(own, key=lambda name: own[name] / bars[name])
    return Outcome(
        f"{own[nearest]:.2f} plain steps ({nearest}, nearest to its bar)",
        f"< {bars[nearest]:g} plain steps, the teacher's pass apart",
        own[nearest] < bars[nearest],
    )
