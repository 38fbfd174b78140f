"""Costs of each way to fill a block: parameters, bytes, or milliseconds on a device."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ktbench.blockwise.taps import Taps
from ktbench.export import onnx_model
from ktbench.measure import Job, measure
from ktbench.records import (
    DeviceSpec,
    ExportSpec,
    Failure,
    KtbenchError,
    Measurement,
    Origin,
    Price,
    Statistic,
    digest_of,
)
from ktbench.runner.blockwise.candidates import Candidates, Labels
from ktbench.students._blocks import KEEP, Block, build_replacement, parameters_of
from ktbench.tasks._contract import InputSpec

Shape = tuple[int, int, int]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Prices:
    """Costs by block of the teacher's own (`keep`) and of each replacement."""

    options: tuple[Mapping[str, float], ...]
    teacher: float
    """Cost of the whole network."""

    @property
    def shared(self) -> float:
        """Cost that no choice changes: the teacher's beyond its blocks'."""
        return self.teacher - sum(block[KEEP] for block in self.options)


@dataclass
class Timings:
    """Origin, runtime and notes of the medians on one device."""

    origin: Origin = "measured"
    runtime: str = ""
    notes: list[str] = field(default_factory=list)


def parameters(candidates: Candidates) -> Prices:
    """Count trainable numbers."""
    options = []
    for block, entries in zip(candidates.blocks, candidates.entries, strict=True):
        costs = {KEEP: float(parameters_of(block.modules(candidates.teacher)))}
        for label, entry in entries.items():
            costs[label] = float(parameters_of(_fresh(block, entry)))
        options.append(costs)
    return Prices(tuple(options), float(parameters_of(candidates.teacher)))


def sizes(candidates: Candidates) -> Prices:
    """Measure the network's ONNX file in fp32, and what replacing each block alone changes of it.

    A part's own file would miss what the names of its tensors take within a network. The teacher
    counts as the student whose blocks are all its own, which is what choices are made from.
    """
    parts, own_blocks = Parts(candidates), (KEEP,) * len(candidates.blocks)
    teacher = len(whole_model(candidates, own_blocks))
    changes: dict[tuple[str, str], float] = {}
    options = []
    for number, keys in enumerate(parts.keys):
        own = keys[KEEP]
        costs = {KEEP: float(len(parts.models[own]))}
        for label in candidates.entries[number]:
            pair = (own, keys[label])
            if pair not in changes:
                alone = (*own_blocks[:number], label, *own_blocks[number + 1 :])
                changes[pair] = float(len(whole_model(candidates, alone)) - teacher)
            costs[label] = costs[KEEP] + changes[pair]
        options.append(costs)
    return Prices(tuple(options), float(teacher))


def latencies(candidates: Candidates, device: DeviceSpec, tell: Progress) -> tuple[Prices, Timings]:
    """Measure each part as a model of its own: median milliseconds, less an empty model's.

    Parts that differ in their weights alone are measured once; all take turns.
    """
    parts = Parts(candidates)
    nothing = onnx_model(nn.ReLU(), (InputSpec("map", (1, 1, 1)),))
    timings = Timings()
    models = {"nothing": nothing, "teacher": whole_model(candidates), **parts.models}
    statistics = medians(models, device, timings, tell)
    least = statistics["nothing"].value
    options = tuple(
        {label: max(statistics[key].value - least, 0.0) for label, key in keys.items()}
        for keys in parts.keys
    )
    return Prices(options, statistics["teacher"].value), timings


def whole_model(candidates: Candidates, choice: Labels | None = None) -> bytes:
    """Return the network of a choice as it is deployed; the teacher without one."""
    data = candidates.trained_on if choice is None else candidates.data
    network = (
        candidates.teacher if choice is None else candidates.network(choice, candidates.cells[0])
    )
    return onnx_model(network, data.signature.inputs, data)


def medians(
    models: Mapping[str, bytes], device: DeviceSpec, timings: Timings, tell: Progress
) -> dict[str, Statistic]:
    """Measure each model's median on a device, in milliseconds; KtbenchError where one has none."""
    with tempfile.TemporaryDirectory(prefix="ktbench-") as place:
        jobs = [_job(name, model, Path(place)) for name, model in models.items()]

        def count(done: int, of: int) -> None:
            tell(f"on {device.name}: repeat {done} of {of}")

        outcomes = list(measure(device, jobs, Path(place), progress=count))
    statistics = {}
    for name, outcome in zip(models, outcomes, strict=True):
        if isinstance(outcome, Failure):
            raise KtbenchError(f"latency on {device.name}: {outcome.reason}")
        _note(name, outcome, timings)
        statistics[name] = outcome.p50_ms
    return statistics


def _note(name: str, measurement: Measurement, timings: Timings) -> None:
    m = measurement
    timings.origin = m.origin
    timings.runtime = f"{m.runtime} {m.runtime_version}, {m.provider}"
    timings.notes += [f"invalid latency of {name}: {reason}" for reason in m.validity.reasons]


def _job(name: str, model: bytes, place: Path) -> Job:
    digest = hashlib.sha256(model).hexdigest()[:16]
    path = place / f"{digest_of(name)}.onnx"
    path.write_bytes(model)
    export = ExportSpec(format="onnx")
    return Job(path=path, export=export, graph_key=digest, cell_key="", digest=digest)


class Parts:
    """Every way to fill a block as a model of its own; equal graphs are converted once.

    `keys` has, by block and label, which of `models` it is.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.models: dict[str, bytes] = {}
        self.keys: list[dict[str, str]] = []
        shapes = input_shapes(candidates)
        for block, entries, shape in zip(
            candidates.blocks, candidates.entries, shapes, strict=True
        ):
            keys = {KEEP: self._key(block.modules(candidates.teacher), shape)}
            for label, entry in entries.items():
                keys[label] = self._key(_fresh(block, entry), shape)
            self.keys.append(keys)

    def _key(self, module: nn.Module, shape: Shape) -> str:
        """Digest all that distinguishes modules beside their weights; convert a new one."""
        kinds = [type(part).__qualname__ for part in module.modules()]
        tensors = [[name, list(t.shape)] for name, t in module.state_dict().items()]
        key = digest_of([str(module), kinds, tensors, list(shape)])
        if key not in self.models:
            self.models[key] = onnx_model(module, (InputSpec("map", shape),))
        return key


def input_shapes(candidates: Candidates) -> Sequence[Shape]:
    """Return the (C, H, W) of each block's input."""
    shapes: dict[Block, Shape] = {}

    def look(block: Block) -> Callable[[Tensor, Tensor], None]:
        def then(given: Tensor, _: Tensor) -> None:
            channels, height, width = given.shape[1:]
            shapes[block] = (int(channels), int(height), int(width))

        return then

    few = candidates.inputs.few()
    taps = Taps(candidates.teacher, candidates.blocks, few)
    for block in candidates.blocks:
        with taps.at(block, look(block)), torch.no_grad():
            candidates.teacher(few)
    return [shapes[block] for block in candidates.blocks]


def _fresh(block: Block, entry: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build_replacement(block, entry).eval()  # type: ignore[arg-type]


def priced(
    candidates: Candidates, by: Price, device: DeviceSpec, tell: Progress
) -> tuple[Prices, Timings | None]:
    """Return costs of the kind `by`, and the timings where they are latencies."""
    if by == "latency":
        return latencies(candidates, device, tell)
    return (parameters(candidates) if by == "parameters" else sizes(candidates)), None
