"""What the students of a cohort share, and who of them writes into it.

The inputs, labels and indices of a step are copied for each student. A teacher's features are too
large for that: they are lent, and looked at after each student's step: whether torch counted a
write, and a few values of each tensor, as writes through `.data` or numpy are not counted. All
values are compared at a student's first step, at the last step of an epoch, and wherever a trace of
a hidden write was found.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ktbench.data import Stream, load
from ktbench.isolation import Guard
from ktbench.isolation.contained import replaces
from ktbench.records import Cell, Failure, KtbenchError
from ktbench.students._contract import Features
from ktbench.train.trainee import Lane

SAMPLES = 64
"""Values of a tensor that are looked at after each step."""
_DATA_SAMPLES = 1 << 16
LOOK_S = 2.0
"""Seconds between two looks at everything, at the ends of epochs."""


class Spoilt(Exception):  # noqa: N818 - an event: the cohort goes back to what was saved
    """What others have learnt from was written into, some steps ago or by one that is known."""


class Lent:
    """A teacher's features of one batch, which each student reads in turn."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._traces = [Trace(what, tensor) for what, tensor in _parts(features)]

    def features(self) -> Features:
        """The same values as tensors of their own, which can be resized or marked freely."""
        alone = self._features
        return Features(
            alone.logits.detach(),
            tuple(stage.detach() for stage in alone.stages),
            None if alone.embedding is None else alone.embedding.detach(),
            tuple(preact.detach() for preact in alone.preacts),
            None if alone.stem is None else alone.stem.detach(),
        )

    def read_all(self) -> None:
        """Remember every value, for `written` to compare."""
        for trace in self._traces:
            trace.read_all()

    def written(self) -> str | None:
        """Names what was written into since; None where nothing was."""
        return next((trace.what for trace in self._traces if trace.changed), None)

    @property
    def seen_at_once(self) -> bool:
        """Whether it takes no checksum to see it, so that it would have been seen before."""
        return any(trace.seen_at_once for trace in self._traces)


def _parts(features: Features) -> list[tuple[str, Tensor]]:
    named = [("logits", features.logits), ("embedding", features.embedding)]
    parts = [
        (what, value) for what, value in [*named, ("stem", features.stem)] if value is not None
    ]
    parts += [(f"stage {n + 1}", stage) for n, stage in enumerate(features.stages)]
    return parts + [(f"pre-activation {n + 1}", p) for n, p in enumerate(features.preacts)]


class Trace:
    """Finds out whether a tensor's values were changed, however that was done."""

    def __init__(self, what: str, tensor: Tensor, samples: int = SAMPLES) -> None:
        self.what, self._tensor = what, tensor
        self._some = _some_values(tensor, samples)
        self._before = self._quick()
        self._whole: int | None = None

    def read_all(self) -> None:
        """Remember a checksum of every value."""
        if self._whole is None:
            self._whole = _checksum(self._tensor)

    @property
    def changed(self) -> bool:
        """Whether it was written into since; values that were not remembered are not compared."""
        return self.seen_at_once or self._differs()

    @property
    def seen_at_once(self) -> bool:
        """As `changed`, without the checksum."""
        return self._quick() != self._before

    def _differs(self) -> bool:
        return self._whole is not None and _checksum(self._tensor) != self._whole

    def _quick(self) -> tuple[Any, ...]:
        values = b"" if self._some is None else self._some.tobytes()
        return self._tensor._version, self._tensor.data_ptr(), values


def _some_values(tensor: Tensor, count: int) -> np.ndarray[Any, Any] | None:
    """A view of values spread over a tensor; None where it does not lie in this machine's memory.

    Reading a GPU's would wait for it after every step.
    """
    try:
        values = tensor.detach().numpy()
    except (TypeError, RuntimeError):
        return None
    flat = values.ravel(order="K")
    if not np.may_share_memory(flat, values):
        return values[:1]
    return flat[:: max(1, len(flat) // count)]


def _checksum(tensor: Tensor) -> int:
    try:
        values = tensor.detach().cpu().numpy()
    except TypeError:  # a type that numpy lacks
        values = tensor.detach().cpu().double().numpy()
    flat = np.ascontiguousarray(values.ravel(order="K"))
    return zlib.crc32(flat.view(np.uint8).data)


# ---------------------------------------------------------------- a cohort's watch


@dataclass
class Watch:
    """Finds the student that changes what others use, and ends it alone.

    Some of it is looked at after every step; all of it at first steps, at the end of an epoch once
    every LOOK_S, at the last one, and before a checkpoint is written. What is found then may have
    been done by anyone since: `Spoilt` sends the cohort back to its last checkpoints, and from
    there on all of it is looked at after every step (`strict`).
    """

    guard: Guard
    stream: Stream
    base: Path
    tell: Callable[[Cell, list[str]], None]
    """Hears of settings that a cell's code changed."""
    strict: bool = False
    _looked: float = field(default_factory=time.monotonic)
    _stepped: set[int] = field(default_factory=set)
    """Lanes that have made their first step."""

    def __post_init__(self) -> None:
        """The data set's own tensors are followed from here on."""
        self._follow_data()

    def closely(self, lane: Lane) -> bool:
        """Whether all is looked at after the lane's next step."""
        return self.strict or id(lane) not in self._stepped

    def work(
        self,
        lane: Lane,
        work: Callable[[], object],
        others: Sequence[Lane] = (),
        *,
        closely: bool = False,
    ) -> None:
        """Let a lane do some work, and see to it that the others can go on.

        Raises KtbenchError for what the lane is to fail for, and Spoilt where others have learnt
        from something that was changed.
        """
        if lane.touched:
            raise Spoilt
        closely = closely or self.closely(lane)
        try:
            with self.guard.containing(
                lambda names: self.tell(lane.cell, names), all_of_it=closely
            ):
                work()
        except KtbenchError:
            if not closely and len(others) > 1 and self.guard.replaced():
                raise Spoilt from None  # It is not known since when, nor whose doing it was.
            raise
        finally:
            lane.mark()
            if closely:
                self._protect(lane, others)
        self._stepped.add(id(lane))

    def written(self, lane: Lane, lent: Lent, *, alone: bool) -> str | None:
        """What a lane has written into of what it was lent, as the reason of its failure.

        Raises Spoilt where only now it comes out that someone wrote, maybe many steps ago.
        """
        if (what := lent.written()) is None:
            return None
        if not (alone or self.strict or lent.seen_at_once):
            raise Spoilt
        return (
            f"method {lane.cell.method.name} writes into the teacher's {what}, which other cells "
            "read: work on a copy of it (.clone())"
        )

    def _protect(self, lane: Lane, others: Sequence[Lane]) -> None:
        """Put right what a lane's code did to the data set or to other students."""
        if any(other is not lane and other.touched for other in others):
            lane.failure = _failure("its code writes into another cell's network")
            raise Spoilt
        if self._heal_data():
            raise KtbenchError(_WRITES_DATA)

    @property
    def due(self) -> bool:
        """Whether it is time to look at everything again: that takes as long as a small step."""
        return self.strict or time.monotonic() - self._looked >= LOOK_S

    def look(self, active: Sequence[Lane], *, alone: bool) -> None:
        """Look at all that may have been changed unnoticed since the last look.

        One that was `alone` in it fails; of several it is not known whose doing it was: raises
        Spoilt, where there are still some.
        """
        self._looked = time.monotonic()
        functions, data = self.guard.replaced(), self._heal_data()
        if not active:
            return
        if any(lane.touched for lane in active) or (not alone and (functions or data)):
            raise Spoilt
        if functions:
            active[0].failure = _failure(str(replaces(functions)))
        elif data:
            active[0].failure = _failure(_WRITES_DATA)

    # ------------------------------------------------------------ the data set

    def _follow_data(self) -> None:
        data = self.stream.dataset
        tensors = [each for pair in data.splits.values() for each in pair]
        tensors += [data.mean, data.std, *self.stream.kept]
        self._data = [Trace("data", each, _DATA_SAMPLES) for each in tensors]

    def _heal_data(self) -> bool:
        """Whether the data set was written into; it is as it was afterwards."""
        if not any(trace.changed for trace in self._data):
            return False
        data = self.stream.dataset
        fresh = load(data.spec, self.base)
        for name, pair in data.splits.items():
            for mine, clean in zip(pair, fresh.splits[name], strict=True):
                mine.data.copy_(clean)
        data.mean.data.copy_(fresh.mean)
        data.std.data.copy_(fresh.std)
        self.stream.forget()
        self._follow_data()
        return True


def _failure(reason: str) -> Failure:
    return Failure(stage="train", reason=reason)


_WRITES_DATA = "its code writes into the data set, which others read: work on a copy (.clone())"
