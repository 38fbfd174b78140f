"""Detects writes into what the students of a cohort share, and which student made them.

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
from ktbench.students._contract import Features, Heads
from ktbench.train.trainee import Trainee

SAMPLES = 64
"""Values of a tensor that are looked at after each step."""
_DATA_SAMPLES = 1 << 16
LOOK_S = 2.0
"""Seconds between two looks at everything, taken at the ends of epochs."""


class Spoilt(Exception):  # noqa: N818 - an event: the cohort goes back to what was saved
    """Raised where students have learnt from something that another one had changed."""


class LentFeatures:
    """A teacher's features for one batch, which each student reads in turn."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._traces = [Trace(what, tensor) for what, tensor in _named_tensors(features)]

    def features(self) -> Features:
        """Return the values as separate tensors, which can be resized or marked freely."""
        lent = self._features
        return Features(
            lent.logits.detach(),
            tuple(stage.detach() for stage in lent.stages),
            None if lent.embedding is None else lent.embedding.detach(),
            tuple(preact.detach() for preact in lent.preacts),
            None if lent.stem is None else lent.stem.detach(),
            tuple(each.detach() for each in lent.sums),
            tuple(Heads(*(part.detach() for part in heads)) for heads in lent.attentions),
            None if lent.mask is None else lent.mask.detach(),
        )

    def read_all(self) -> None:
        """Remember every value, for `written` to compare."""
        for trace in self._traces:
            trace.read_all()

    def written(self) -> str | None:
        """Return the name of a tensor that was written into since, or None."""
        return next((trace.what for trace in self._traces if trace.changed), None)

    @property
    def seen_at_once(self) -> bool:
        """True where no checksum is needed to see it, so that it would have been seen before."""
        return any(trace.seen_at_once for trace in self._traces)


def _named_tensors(features: Features) -> list[tuple[str, Tensor]]:
    single = [
        ("logits", features.logits),
        ("embedding", features.embedding),
        ("stem", features.stem),
        ("mask", features.mask),
    ]
    named = [(what, value) for what, value in single if value is not None]
    named += [(f"stage {n + 1}", stage) for n, stage in enumerate(features.stages)]
    named += [(f"sum {n + 1}", each) for n, each in enumerate(features.sums)]
    for n, heads in enumerate(features.attentions):
        named += [(f"{part} of layer {n + 1}", each) for part, each in heads._asdict().items()]
    return named + [(f"pre-activation {n + 1}", p) for n, p in enumerate(features.preacts)]


class Trace:
    """Detects changes of a tensor's values, however they were made."""

    def __init__(self, what: str, tensor: Tensor, samples: int = SAMPLES) -> None:
        self.what, self._tensor = what, tensor
        self._samples = _some_values(tensor, samples)
        self._before = self._quick_state()
        self._full_checksum: int | None = None

    def read_all(self) -> None:
        """Remember a checksum of every value."""
        if self._full_checksum is None:
            self._full_checksum = _checksum(self._tensor)

    @property
    def changed(self) -> bool:
        """True where it was written into since; values not remembered are not compared."""
        return self.seen_at_once or self._checksum_differs()

    @property
    def seen_at_once(self) -> bool:
        """True where torch's count of writes or a sampled value shows it."""
        return self._quick_state() != self._before

    def _checksum_differs(self) -> bool:
        known = self._full_checksum
        return known is not None and _checksum(self._tensor) != known

    def _quick_state(self) -> tuple[Any, ...]:
        values = b"" if self._samples is None else self._samples.tobytes()
        return self._tensor._version, self._tensor.data_ptr(), values


def _some_values(tensor: Tensor, count: int) -> np.ndarray[Any, Any] | None:
    """Return a view of values spread over a tensor; None where it lies in a GPU's memory.

    Reading it there would wait for the GPU after every step.
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
    """Finds the student whose code changes what others use, and ends it alone.

    Some shared values are looked at after every step; all of them at first steps, at the end of an
    epoch once every LOOK_S, at the last one, and before a checkpoint is written. What is found then
    may have been done by anyone since: `Spoilt` sends the cohort back to its last checkpoints, and
    from there on everything is looked at after every step (`strict`).
    """

    guard: Guard
    stream: Stream
    base: Path
    tell: Callable[[Cell, list[str]], None]
    """Receives the settings that a cell's code changed."""
    strict: bool = False
    _looked: float = field(default_factory=time.monotonic)
    _stepped: set[int] = field(default_factory=set)
    """Ids of trainees that have made their first step."""

    def __post_init__(self) -> None:
        """Follow the data set's own tensors from here on."""
        self._follow_data()

    def closely(self, trainee: Trainee) -> bool:
        """Return whether everything is looked at after the trainee's next step."""
        return self.strict or id(trainee) not in self._stepped

    def work(
        self,
        trainee: Trainee,
        work: Callable[[], object],
        others: Sequence[Trainee] = (),
        *,
        closely: bool = False,
    ) -> None:
        """Let a trainee do some work, and make sure that the others can go on.

        Raises KtbenchError with the reason for which the trainee fails, and Spoilt where others
        have learnt from something that was changed.
        """
        if trainee.touched:
            raise Spoilt
        closely = closely or self.closely(trainee)
        try:
            with self.guard.containing(
                lambda names: self.tell(trainee.cell, names), all_of_it=closely
            ):
                work()
        except KtbenchError:
            if not closely and len(others) > 1 and self.guard.replaced():
                raise Spoilt from None  # It is not known since when, nor whose doing it was.
            raise
        finally:
            trainee.remember_writes()
            if closely:
                self._protect(trainee, others)
        self._stepped.add(id(trainee))

    def written(self, trainee: Trainee, lent: LentFeatures, *, alone: bool) -> str | None:
        """Return the reason of failure of a trainee that wrote into the lent features, or None.

        Raises Spoilt where someone may have written many steps ago.
        """
        if (what := lent.written()) is None:
            return None
        if not (alone or self.strict or lent.seen_at_once):
            raise Spoilt
        return (
            f"method {trainee.cell.method.name} writes into the teacher's {what}, which other "
            "cells read: work on a copy of it (.clone())"
        )

    def _protect(self, trainee: Trainee, others: Sequence[Trainee]) -> None:
        """Repair the data set; raise where a trainee's code changed it or another student."""
        if any(other is not trainee and other.touched for other in others):
            trainee.failure = _failure("its code writes into another cell's network")
            raise Spoilt
        if self._heal_data():
            raise KtbenchError(_WRITES_DATA)

    @property
    def due(self) -> bool:
        """True when it is time to look at everything again, which takes as long as a small step."""
        return self.strict or time.monotonic() - self._looked >= LOOK_S

    def look(self, active: Sequence[Trainee], *, alone: bool) -> None:
        """Look at all that may have been changed unnoticed since the last look.

        A trainee that was `alone` fails for it. Of several it is not known whose doing it was:
        raises Spoilt while any are active.
        """
        self._looked = time.monotonic()
        functions, data = self.guard.replaced(), self._heal_data()
        if not active:
            return
        if any(trainee.touched for trainee in active) or (not alone and (functions or data)):
            raise Spoilt
        if functions:
            active[0].failure = _failure(str(replaces(functions)))
        elif data:
            active[0].failure = _failure(_WRITES_DATA)

    # ------------------------------------------------------------ the data set

    def _follow_data(self) -> None:
        tensors = [*self.stream.dataset.tensors, *self.stream.kept]
        self._data = [Trace("data", each, _DATA_SAMPLES) for each in tensors]

    def _heal_data(self) -> bool:
        """Reload the data set if it was written into; return whether it was."""
        if not any(trace.changed for trace in self._data):
            return False
        data = self.stream.dataset
        fresh = load(data.spec, self.base)
        for used, clean in zip(data.tensors, fresh.tensors, strict=True):
            used.data.copy_(clean)
        self.stream.forget()
        self._follow_data()
        return True


def _failure(reason: str) -> Failure:
    return Failure(stage="train", reason=reason)


_WRITES_DATA = "its code writes into the data set, which others read: work on a copy (.clone())"
