"""Base classes of most methods, views of features, and the two commonest losses."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ktbench.transfer_methods import _checks
from ktbench.transfer_methods._contract import Batch, Features, Needs, Setting, TransferMethod
from ktbench.transfer_methods._pairs import warmup_epochs

C = TypeVar("C")
"""A method's settings."""


class ReadHeads(NamedTuple):
    """See `_contract.Heads`."""

    query: Tensor
    key: Tensor
    value: Tensor


class View:
    """A network's features as a loss reads them: at least single precision, teachers detached.

    Nothing is touched before it is asked for, so that a source may hold only what is needed.
    """

    def __init__(self, features: Features, *, detached: bool) -> None:
        self._features = features
        self._detached = detached

    def _read(self, value: Tensor) -> Tensor:
        value = value.detach() if self._detached else value
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value

    @property
    def logits(self) -> Tensor:
        """(B, K)."""
        return self._read(self._features.logits)

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Each (B, C, H, W) or (B, N, D)."""
        return tuple(self._read(stage) for stage in self._features.stages)

    @property
    def embedding(self) -> Tensor:
        """(B, D)."""
        if self._features.embedding is None:
            raise RuntimeError("the network shows no embedding, and the method needs one")
        return self._read(self._features.embedding)

    @property
    def preacts(self) -> tuple[Tensor, ...]:
        """The stages before their activation."""
        if not self._features.preacts:
            raise RuntimeError("the network shows no pre-activations, and the method needs them")
        return tuple(self._read(stage) for stage in self._features.preacts)

    @property
    def stem(self) -> Tensor | None:
        """The stem's output, where there is one."""
        stem = self._features.stem
        return None if stem is None else self._read(stem)

    @property
    def shows_sums(self) -> bool:
        """True for a pre-activation network."""
        return bool(self._features.sums)

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """Stages before their last BatchNorm in a pre-activation network; else the stages."""
        sums = self._features.sums or self._features.stages
        return tuple(self._read(each) for each in sums)

    @property
    def attentions(self) -> tuple[ReadHeads, ...]:
        """The heads of each self-attention layer."""
        return tuple(
            ReadHeads(self._read(heads.query), self._read(heads.key), self._read(heads.value))
            for heads in self._features.attentions
        )

    @property
    def mask(self) -> Tensor | None:
        """(B, N) bool: true where a token counts; None where all do."""
        return self._features.mask


def seen(student: Features) -> View:
    """Return the student's features in at least single precision."""
    return View(student, detached=False)


def frozen(teacher: Features | None) -> View:
    """Return the teacher's features in at least single precision, without gradient."""
    if teacher is None:
        raise RuntimeError("the method reads a teacher in this phase, and was given none")
    return View(teacher, detached=True)


class Distillation(TransferMethod, Generic[C]):
    """Base of methods that read a teacher; it checks that both networks show what is needed.

    A method adds its own reasons against a pair in `unfit`, which may rely on there being a teacher
    that shows what `needs` asks for. One that compares stages keeps its `pairs`, and has a setting
    of that name where a matrix may choose them.
    """

    config: C
    pairs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def warmup_epochs(cls, config: Any) -> int | None:
        """Return what the setting `pairs` says."""
        return warmup_epochs(getattr(config, "pairs", None))

    def paired_stages(self) -> tuple[tuple[int, int], ...]:
        """Return the method's `pairs`."""
        return self.pairs

    @classmethod
    def incompatible(cls, config: Any, setting: Setting) -> str | None:
        """See `TransferMethod.incompatible`."""
        return _missing(cls.needs(config), cls.student_needs(config), setting) or cls.unfit(
            config, setting
        )

    @classmethod
    def revision(cls, config: Any) -> int:
        """1 with standardised logits, whose deviation is the sample's since then."""
        return int(getattr(config, "standardise", False))

    @classmethod
    def unfit(cls, config: Any, setting: Setting) -> str | None:
        """Return the method's own reason against this pair, or None."""
        return None


def _missing(teacher: Needs, student: Needs, setting: Setting) -> str | None:
    """Explain in one sentence what the pair lacks of what is needed; None if nothing."""
    if setting.teacher is None:
        return "the method needs a teacher and there is none"
    for side, needs, shapes in (
        ("teacher", teacher, setting.teacher),
        ("student", student, setting.student),
    ):
        if (needs.stages or needs.preacts) and not shapes.stages:
            return f"the {side} names no stages, and the method compares stages"
        if needs.preacts and not shapes.preacts:
            return (
                f"the {side} shows no pre-activations, and the method compares them: "
                "an own network names their modules as `preacts`"
            )
        if needs.attentions and not shapes.attentions:
            return f"the {side} shows no attention heads, and the method compares them"
        if needs.embedding and shapes.embedding is None:
            return f"the {side} shows no embedding, and the method compares embeddings"
    if teacher.logits and setting.teacher.logits != setting.student.logits:
        return (
            f"the teacher has {setting.teacher.logits} classes and the student "
            f"{setting.student.logits}, and the method compares logits"
        )
    return None


def root_mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Return the root of the mean squared difference over all elements.

    Where both are equal the value is 0 and so is the gradient, where that of a plain square root
    would not be finite: a norm has a subgradient there.
    """
    difference = a - b
    norm: Tensor = torch.linalg.vector_norm(difference)
    return norm / sqrt(max(1, difference.numel()))


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference over all elements."""
    return functional.mse_loss(a, b)


def sum_of(terms: list[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@dataclass(frozen=True, slots=True)
class Weights:
    """Settings of a method that adds one term to the cross-entropy: both weights."""

    ce_weight: float = 1.0
    """Weight of the cross-entropy with the labels."""
    weight: float = 1.0
    """Weight of the transfer term."""

    def __post_init__(self) -> None:
        _checks.number(self, "ce_weight", least=0)
        _checks.number(self, "weight", above=0)


W = TypeVar("W", bound=Weights)


class OneTerm(Distillation[W]):
    """Base of methods with one term of their own: ce_weight * CE + weight * `transfer`."""

    term: ClassVar[str] = "transfer"
    """Name of the method's own term."""

    @abstractmethod
    def transfer(self, student: View, teacher: View, batch: Batch) -> Tensor:
        """Return the method's own scalar, without its weight."""

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The terms: ce, and the one that `term` names."""
        ours = seen(student)
        return {
            "ce": self.config.ce_weight * batch.supervised(ours.logits),
            self.term: self.config.weight * self.transfer(ours, frozen(teacher), batch),
        }
