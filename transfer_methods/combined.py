"""Weighted sum of methods, each with its own schedule, such as CRD + KD.

After Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, table 4, which
adds distillation to other methods. Written in a matrix as

    combined: {parts: [{method: kd, settings: {weight: 1}}, crd]}

which is that table's CRD + KD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._common import seen, sum_of
from ktbench.transfer_methods._contract import (
    ALL,
    Batch,
    Features,
    Needs,
    Phase,
    Scale,
    Setting,
    TransferMethod,
    Update,
)
from ktbench.transfer_methods._parts import Part, read_part


@dataclass(frozen=True, slots=True)
class Config:
    """One cross-entropy for all; of each part every term but its own cross-entropy."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels, at all times."""
    parts: tuple[Any, ...] = ("kd",)
    """Each a method's name, or {method, settings, weight, last_weight, start, end}: its terms
    count between the shares `start` and `end` of the training, with a weight that goes linearly
    from `weight` to `last_weight` (equal when not given)."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        if not isinstance(self.parts, tuple) or not self.parts:
            raise ValueError(f"parts must be a list of methods, not {self.parts!r}")
        object.__setattr__(self, "parts", tuple(read_part(part) for part in self.parts))
        if any(part.method in ("combined", "none") for part in self.parts):
            raise ValueError("parts cannot hold combined or none")


@dataclass(frozen=True, slots=True)
class _Active:
    """A part within one segment of the training, in one of its own phases."""

    number: int
    phase: Phase

    @property
    def updates(self) -> list[tuple[str, Update]]:
        """The part's updates that move more than cross-entropy, with the names of their terms."""
        updates = [u for u in self.phase.updates if u.terms is None or set(u.terms) - {"ce"}]
        return [(f"part{self.number}_{i}", update) for i, update in enumerate(updates)]


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the training in which no part begins, ends or changes its phase."""

    until: float
    active: tuple[_Active, ...]


class Method(TransferMethod):
    """ce_weight * CE + sum over parts of weight(progress) * their terms.

    Updates that move the whole student are joined into one with the cross-entropy; a part's
    other updates (a hint phase, an optimiser per layer) stay its own. Terms are named
    `part<number>_<update>`.
    """

    Config = Config

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__(config, setting)
        self.parts = nn.ModuleList(part.kind(part.config, setting) for part in config.parts)
        self.segments = self._segments()

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Return what any part needs."""
        needs = Needs()
        for part in config.parts:
            needs |= part.kind.needs(part.config)
        return needs

    @classmethod
    def soft_targets(cls, config: Any) -> float | None:
        """Return the temperature of the parts that read the teacher, if all have the same."""
        reading = [part for part in config.parts if part.kind.needs(part.config)]
        temperatures = {part.kind.soft_targets(part.config) for part in reading}
        return temperatures.pop() if len(temperatures) == 1 else None

    @classmethod
    def scale(cls, config: Any) -> Scale | None:
        """The one cross-entropy, and the parts that weigh like it, each with its first weight."""
        scales = [(part.weight, part.kind.scale(part.config)) for part in config.parts]
        weights = [w * s.transfer for w, s in scales if s is not None and s.transfer is not None]
        return Scale(config.ce_weight, sum(weights) if weights else None)

    @classmethod
    def revision(cls, config: Any) -> int:
        """All parts' together."""
        return sum(part.kind.revision(part.config) for part in config.parts)

    @classmethod
    def student_needs(cls, config: Any) -> Needs:
        """Return what any part needs of the student."""
        needs = Needs(logits=True)
        for part in config.parts:
            needs |= part.kind.student_needs(part.config)
        return needs

    @classmethod
    def incompatible(cls, config: Any, setting: Setting) -> str | None:
        """The first reason of any part."""
        for part in config.parts:
            reason = part.kind.incompatible(part.config, setting)
            if reason is not None:
                alone = reason == "the method needs a teacher and there is none"
                return reason if alone else f"{part.method}: {reason}"
        if len(cls._warmups(config)) > 1:
            return "the parts compare stages after different warm-ups: give all the same"
        return None

    @classmethod
    def warmup_epochs(cls, config: Any) -> int | None:
        """Return what the parts ask for, which is the same for all."""
        return next(iter(cls._warmups(config)), None)

    @staticmethod
    def _warmups(config: Any) -> list[int]:
        asked = (part.kind.warmup_epochs(part.config) for part in config.parts)
        return list(dict.fromkeys(epochs for epochs in asked if epochs is not None))

    def paired_stages(self) -> Sequence[tuple[int, int]]:
        """Return the parts' pairs, each once."""
        pairs = (self._method(i).paired_stages() for i in range(len(self.parts)))
        return tuple(dict.fromkeys(pair for own in pairs for pair in own))

    def _segments(self) -> tuple[_Segment, ...]:
        parts: Sequence[Part] = self.config.parts
        phases = [self._method(i).phases() for i in range(len(parts))]
        ends = {1.0} | {phase.until for own in phases for phase in own}
        ends |= {part.start for part in parts} | {part.end for part in parts}
        segments, begin = [], 0.0
        for end in sorted(ends - {0.0}):
            active = tuple(
                _Active(i, next(phase for phase in phases[i] if begin < phase.until))
                for i, part in enumerate(parts)
                if part.start <= begin < part.end
            )
            segments.append(_Segment(end, active))
            begin = end
        return tuple(segments)

    def _method(self, number: int) -> TransferMethod:
        method = self.parts[number]
        assert isinstance(method, TransferMethod)
        return method

    def phases(self) -> Sequence[Phase]:
        """One phase per segment."""
        return tuple(self._phase(i, segment) for i, segment in enumerate(self.segments))

    def _phase(self, number: int, segment: _Segment) -> Phase:
        joint, adaptors, separate = ["ce"], list[str](), []
        for active in segment.active:
            for name, update in active.updates:
                prefixes = _prefixed(active.number, update.adaptors)
                if update.student == ALL:
                    joint.append(name)
                    adaptors += prefixes
                else:
                    separate.append(Update((name,), update.student, prefixes))
        teacher = any(
            active.phase.teacher and self._method(active.number).needs(self._config(active))
            for active in segment.active
        )
        # Without updates of a part's own one optimiser serves, whichever parts count now: equal
        # updates keep theirs from segment to segment.
        together = Update()
        if separate:
            together = Update(tuple(joint), ALL, tuple(p for p in adaptors if self._holds(p)))
        rest = tuple(
            Update(u.terms, u.student, tuple(p for p in u.adaptors or () if self._holds(p)))
            for u in separate
        )
        return Phase(f"segment{number}", segment.until, (together, *rest), teacher=teacher)

    def _config(self, active: _Active) -> Any:
        return self.config.parts[active.number].config

    def _holds(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name, _ in self.named_parameters())

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, and one for each update of each part that counts now."""
        ours = seen(student).logits
        terms = {"ce": self.config.ce_weight * batch.supervised(ours)}
        for active in self._segment(batch).active:
            weight = self.config.parts[active.number].weight_at(batch.progress)
            method = self._method(active.number)
            losses = method.loss(student, teacher, batch.in_phase(active.phase.name))
            for name, update in active.updates:
                names = losses.keys() if update.terms is None else update.terms
                chosen = [losses[term] for term in names if term != "ce"]
                terms[name] = weight * sum_of(chosen) if chosen else torch.zeros_like(terms["ce"])
        return terms

    def _segment(self, batch: Batch) -> _Segment:
        number = batch.phase.removeprefix("segment")
        return self.segments[int(number)] if number.isdigit() else self.segments[0]


def _prefixed(number: int, adaptors: tuple[str, ...] | None) -> tuple[str, ...]:
    """A part's prefixes as `combined` names its parameters."""
    return tuple(f"parts.{number}.{prefix}" for prefix in (("",) if adaptors is None else adaptors))
