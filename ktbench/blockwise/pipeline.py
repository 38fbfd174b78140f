"""Shares one pass of the teacher: each worker runs its segment and hands its output on.

The activations that are handed on are a function of the teacher and the step alone, so a worker
that waits for them in vain runs the teacher's beginning itself, and the blocks are the same, bit
for bit. They go through files below the results folder, each read once, a few at a time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ktbench.blockwise.blocks import to_bytes
from ktbench.networks.weights import read_torch
from ktbench.records import KtbenchError
from ktbench.students._blocks import Block
from ktbench.students._contract import Inputs, StagedNetwork, Student
from ktbench.system.files import PREFIX

DEPTH = 4
"""Most batches on their way from a worker to the next."""
PATIENCE_S = 60.0
"""Seconds that a worker waits for another: those of one run start at about the same time."""
_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in a staged network: the input of a child of a stage."""

    stage: int
    child: int

    @property
    def path(self) -> str:
        """Path of the module whose input it is."""
        return f"stages.{self.stage}.{self.child}"


def position_of(block: Block) -> tuple[int, int]:
    """Return the stage and child of a block, to sort by: -1 before the stages, last behind them."""
    parts = block.name.split(".")
    if parts[0] != "stages":
        return (-1, 0) if parts[0] == "stem" else (sys.maxsize, 0)
    numbers = [int(part) for part in parts[1:3] if part.isdigit()]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def cut_before(network: Student, block: Block, inputs: Inputs) -> Cut | None:
    """Return the last place before a block where the network can be cut, or None.

    It is tried with some `inputs`: the rest of a pass must give the whole pass's
    logits, bit for bit, so that a network of any kind is cut correctly or not at all.
    """
    parts = block.name.split(".")
    if not isinstance(network, StagedNetwork) or parts[0] != "stages" or len(parts) < 2:
        return None
    inside = len(parts) > 2 and parts[2].isdigit()
    cut = Cut(int(parts[1]), int(parts[2]) if inside else 0)
    if not isinstance(network.stages[cut.stage], nn.Sequential):
        return None
    handed: list[Tensor] = []

    def remember(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        handed.append(arguments[0].clone())

    hook = network.get_submodule(cut.path).register_forward_pre_hook(remember)
    try:
        with torch.no_grad():
            whole = network(inputs)
            hook.remove()
            same = len(handed) == 1 and torch.equal(from_cut(network, cut, handed[0]), whole)
    except Exception:  # a user's own stage may want anything: then it is not cut
        return None
    finally:
        hook.remove()
    return cut if same else None


def from_cut(network: Student, cut: Cut, given: Tensor) -> Tensor:
    """Run the rest of a pass: from the input (B, C, H, W) of a cut to the logits (B, K)."""
    assert isinstance(network, StagedNetwork)
    stage = network.stages[cut.stage]
    # A module of the stage's own class: it may do something between its children.
    rest = type(stage)(*list(stage.children())[cut.child :])
    x = network.activate(rest(given))
    for later in network.stages[cut.stage + 1 :]:
        x = network.activate(later(x))
    logits: Tensor = network.head(network.embed(x))
    return logits


@dataclass(frozen=True)
class ChainPlace:
    """A worker's place in a chain: where its segment begins and where the next one's does."""

    folder: Path
    number: int
    takes: Cut | None = None
    gives: Cut | None = None
    patience: float = PATIENCE_S


@dataclass(frozen=True)
class Activations:
    """The input of a worker's segment, and the time that it took."""

    given: Tensor
    data_seconds: float
    """Seconds of making the batch."""
    teacher_seconds: float
    """Seconds of the teacher's pass so far."""


class HandOver:
    """A worker's exchange with the workers before and after it while it trains."""

    def __init__(self, place: ChainPlace) -> None:
        self._place = place
        self._waits = self._gives = True
        place.folder.mkdir(parents=True, exist_ok=True)
        # Left by a run that was stopped: this worker has not ended now.
        (place.folder / f"ended-{place.number}").unlink(missing_ok=True)

    @property
    def gives(self) -> bool:
        """True where there is a next worker."""
        return self._place.gives is not None

    def go_on(self, network: Student, received: Activations) -> Tensor:
        """Run the teacher's pass from the received activations."""
        assert self._place.takes is not None
        return from_cut(network, self._place.takes, received.given)

    # ------------------------------------------------------------ taking

    def take(self, epoch: int, step: int) -> Activations | None:
        """Return the input of this worker's segment; None where it must run the teacher itself."""
        place = self._place
        if place.takes is None:
            return None
        path = self._file(place.number, epoch, step)
        # Written before waiting, so that nothing is written for steps that are over.
        self._write(f"wants-{place.number}", [epoch, step])
        ended = place.folder / f"ended-{place.number - 1}"
        until = time.monotonic() + (place.patience if self._waits else 0.0)
        while not path.exists():
            if time.monotonic() >= until or (ended.exists() and not path.exists()):
                self._waits = False
                return None
            time.sleep(_POLL_S)
        self._waits = True
        try:
            given, data, teacher = read_torch(path)
        except KtbenchError:
            return None
        finally:
            path.unlink(missing_ok=True)
        return Activations(given, data, teacher)

    # ------------------------------------------------------------ giving

    def give(self, epoch: int, step: int, activations: Activations) -> None:
        """Hand the next worker its input, unless it is past that step or is not there."""
        number = self._place.number + 1
        if self._wanted(number, epoch, step):
            fields = [activations.given, activations.data_seconds, activations.teacher_seconds]
            self._write(self._file(number, epoch, step).name, fields)

    @contextmanager
    def giving(self, network: Student, then: Any) -> Iterator[None]:
        """Call `then` with the input of the next segment in every pass inside the `with` block."""
        if self._place.gives is None:
            yield
            return

        def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            then(arguments[0])

        hook = network.get_submodule(self._place.gives.path).register_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()

    def end(self) -> None:
        """Announce that nothing more is given, so that nobody waits for it."""
        self._write(f"ended-{self._place.number}", [])

    def _wanted(self, number: int, epoch: int, step: int) -> bool:
        """Return whether to write a step; waits while enough is on its way and is being read."""
        until = time.monotonic() + (self._place.patience if self._gives else 0.0)
        last: list[int] | None = None
        while True:
            wants = self._read(f"wants-{number}")
            if wants is not None:
                if [epoch, step] < wants:
                    return False
                on_way = len(list(self._place.folder.glob(f"{number}-*.pt")))
                if on_way < DEPTH:
                    self._gives = True
                    return True
                if wants != last:
                    last, until = wants, time.monotonic() + self._place.patience
            if time.monotonic() >= until:
                self._gives = False
                return False
            time.sleep(_POLL_S)

    # ------------------------------------------------------------ files

    def _file(self, number: int, epoch: int, step: int) -> Path:
        return self._place.folder / f"{number}-{epoch}-{step}.pt"

    def _write(self, name: str, content: object) -> None:
        """Write a whole file or none, without flushing, as no file is ever indispensable."""
        path = self._place.folder / name
        temporary = path.with_name(f"{PREFIX}{os.getpid()}-{name}")
        with suppress(OSError):
            temporary.write_bytes(to_bytes(content))
            temporary.replace(path)

    def _read(self, name: str) -> list[int] | None:
        try:
            numbers: list[int] = read_torch(self._place.folder / name)
        except KtbenchError:
            return None
        return numbers
