"""The contract of transfer methods: a loss over two networks' features, and its phases.

A file of this folder is a method. It defines a frozen dataclass `Config` (its settings with the
published defaults) and a class `Method(TransferMethod)`. The file's name is the method's name.

The training loop runs one forward pass of the student per step, asks `loss` for its named terms,
and carries out the current phase's updates: each is a gradient of the sum of some terms with
respect to some parameters, taken by an optimiser of its own. All gradients of a step are taken
before the first optimiser moves anything.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Inputs = Tensor | tuple[Tensor, ...]
"""See `students/_contract.py`."""


class Heads(Protocol):
    """One layer's self-attention before its softmax; each (B, heads, N, D)."""

    @property
    def query(self) -> Tensor:
        """The queries."""

    @property
    def key(self) -> Tensor:
        """The keys."""

    @property
    def value(self) -> Tensor:
        """The values."""


class Features(Protocol):
    """Outputs of one forward pass; see `students/_contract.py` for the shapes."""

    @property
    def logits(self) -> Tensor:
        """(B, K); (B * predictions, K) of a task with several predictions per sample."""

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Each (B, C, H, W) or (B, N, D), after its activation."""

    @property
    def embedding(self) -> Tensor | None:
        """(B, D)."""

    @property
    def preacts(self) -> tuple[Tensor, ...]:
        """The stages before their activation; empty unless `Needs.preacts`."""

    @property
    def stem(self) -> Tensor | None:
        """The stem's output, where there is one."""

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """A pre-activation network's stages before their last BatchNorm; else empty."""

    @property
    def attentions(self) -> tuple[Heads, ...]:
        """The heads of each self-attention layer, in order; empty unless `Needs.attentions`."""

    @property
    def mask(self) -> Tensor | None:
        """(B, N), true where a token counts; None where all do.

        It is there wherever stages or attentions are asked for.
        """


@dataclass(frozen=True, slots=True)
class Needs:
    """The features of a network that a method reads; with none of them it needs no teacher.

    The mask of tokens comes with stages and with attentions.
    """

    logits: bool = False
    stages: bool = False
    embedding: bool = False
    preacts: bool = False
    stem: bool = False
    sums: bool = False
    attentions: bool = False

    def __or__(self, other: Needs) -> Needs:
        """Return what either of the two needs."""
        return Needs(
            logits=self.logits or other.logits,
            stages=self.stages or other.stages,
            embedding=self.embedding or other.embedding,
            preacts=self.preacts or other.preacts,
            stem=self.stem or other.stem,
            sums=self.sums or other.sums,
            attentions=self.attentions or other.attentions,
        )

    def __bool__(self) -> bool:
        """True if anything is needed."""
        return self != Needs()

    @property
    def mask(self) -> bool:
        """True if it is asked which tokens count."""
        return self.stages or self.attentions

    @property
    def only_logits(self) -> bool:
        """True if a source that holds nothing but logits can serve it."""
        return self in (Needs(), Needs(logits=True))


@dataclass(frozen=True, slots=True)
class Shapes:
    """A network's feature shapes for one sample, without the batch dimension."""

    logits: int
    stages: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    embedding: int | None
    stem: tuple[int, ...] | None = None
    preacts: bool = True
    """True if the network can show its stages before their activation."""
    attentions: tuple[tuple[int, ...], ...] = ()
    """(heads, N, D) of each self-attention layer; a layer's queries, keys and values are alike."""
    mask: int | None = None
    """N of the mask; None where every token counts."""

    @classmethod
    def of(cls, features: Features, names: Sequence[str]) -> Shapes:
        """Return the shapes of a pass that was asked for everything; `names` are the stages'.

        The size of its batch does not matter.
        """
        return cls(
            logits=int(features.logits.shape[1]),
            stages=tuple(tuple(stage.shape[1:]) for stage in features.stages),
            names=tuple(names),
            embedding=None if features.embedding is None else int(features.embedding.shape[1]),
            stem=None if features.stem is None else tuple(features.stem.shape[1:]),
            preacts=bool(features.preacts),
            attentions=tuple(tuple(heads.query.shape[1:]) for heads in features.attentions),
            mask=None if features.mask is None else int(features.mask.shape[1]),
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """Facts that a method is given when it is built."""

    student: Shapes
    teacher: Shapes | None
    num_classes: int
    train_size: int
    batch_size: int
    similarity: tuple[tuple[float, ...], ...] | None = None
    """[teacher stage][student stage]: cosine similarity of the teacher's activations on training
    images with those of the student that `warmup_epochs` asks for; None while planning."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's inputs and where in the training it stands."""

    inputs: Inputs
    """(B, ...), normalised; a tuple of tensors for networks with several inputs."""
    labels: Tensor
    """One per row of logits: int64 for classes, float32 for numbers to predict. (B,), or
    (B * predictions,) where a sample has several predictions, in the order of the samples. Of
    blended samples (mixup, cutmix) the class with the larger share."""
    indices: Tensor
    """(B,) int64: positions in the training set, 0 to train_size - 1."""
    epoch: int
    step: int
    progress: float
    """Share of the training done before this step, in [0, 1)."""
    seed: int
    """Counter-based, new at each step and equal in every process: seed a generator with it."""
    phase: str = ""
    """Name of the method's current phase."""
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    """The task's own loss of a network's outputs and the labels, one per row."""
    targets: Tensor | None = None
    """The classes' shares of each label, (B, K), where labels are smoothed or samples blended."""

    def supervised(self, outputs: Tensor) -> Tensor:
        """Return the loss of outputs with the labels, as a training without transfer has it.

        For classes this is the cross-entropy, which gives the term `ce` its name; labels that are
        smoothed or blended count by their shares.
        """
        return self.loss(outputs, self.labels if self.targets is None else self.targets)

    def in_phase(self, phase: str) -> Batch:
        """Return the same batch with the name of the phase that it serves."""
        return self if phase == self.phase else replace(self, phase=phase)


@dataclass(frozen=True, slots=True)
class Scope:
    """The student's parameters that an update moves.

    Stages are found by dependence, for any network: `upto` takes every parameter that stage's
    output depends on; `only` those that it depends on and the stage before it does not; `after`
    those that it does not depend on, the head's included.
    """

    everything: bool = True
    upto: int | None = None
    only: int | None = None
    after: int | None = None

    @classmethod
    def upto_stage(cls, index: int) -> Scope:
        """The stem and all stages up to `index`, inclusive."""
        return cls(everything=False, upto=index)

    @classmethod
    def only_stage(cls, index: int) -> Scope:
        """Stage `index` alone (with the stem if it is the first)."""
        return cls(everything=False, only=index)

    @classmethod
    def after_stage(cls, index: int) -> Scope:
        """Everything after stage `index`."""
        return cls(everything=False, after=index)

    @classmethod
    def nothing(cls) -> Scope:
        """An empty scope: only adaptors are trained."""
        return cls(everything=False)


ALL = Scope()


@dataclass(frozen=True, slots=True)
class Scale:
    """Weights of the terms of a loss while the transfer is on."""

    ce: float = 1.0
    """Weight of the term `ce`, the cross-entropy with the labels."""
    transfer: float | None = None
    """Weight of all other terms together, if they are divergences between class probabilities and
    so weigh like a cross-entropy; None if they are distances of another kind."""

    @property
    def alone(self) -> float:
        """The weight of a cross-entropy that stands for all terms and keeps the loss's scale.

        The sum of both weights; where they cannot be added, that of a training without transfer,
        1, or the method's own where that is more.
        """
        return max(1.0, self.ce) if self.transfer is None else self.ce + self.transfer


@dataclass(frozen=True, slots=True)
class Update:
    """One gradient and one optimiser: these terms move these parameters."""

    terms: tuple[str, ...] | None = None
    """Names of loss terms; None takes all that `loss` returned."""
    student: Scope = ALL
    adaptors: tuple[str, ...] | None = None
    """Prefixes of the method's own parameters' names; None takes all."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the training, up to (not including) the fraction `until`.

    An update that is equal in two phases keeps its optimiser, with its state, from one to the
    other.
    """

    name: str
    until: float = 1.0
    updates: tuple[Update, ...] = (Update(),)
    teacher: bool = True
    """False if nothing of the teacher is read; then it need not run, and `loss` may be given
    None."""


class TransferMethod(nn.Module):
    """A loss over two networks, with its adaptors as submodules; the export leaves them out."""

    Config: ClassVar[type[Any]]
    """The module's frozen dataclass of settings."""

    def __init__(self, config: Any, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.setting = setting

    @classmethod
    @abstractmethod
    def needs(cls, config: Any) -> Needs:
        """Return what is read of the teacher; nothing means that no teacher is run."""

    @classmethod
    def student_needs(cls, config: Any) -> Needs:
        """Return what is read of the student: the same as of the teacher, unless overridden."""
        return cls.needs(config) | Needs(logits=True)

    @classmethod
    def incompatible(cls, config: Any, setting: Setting) -> str | None:
        """Explain in one sentence why this pair cannot be trained with this method, or None."""
        return None

    @classmethod
    def warmup_epochs(cls, config: Any) -> int | None:
        """Return after how many epochs of its own the student is compared with the teacher.

        A student of a fixed seed is trained without transfer for so long; `Setting.similarity`
        then holds its stages' similarities, the same for all seeds. 0: the student itself, before
        training. None: the method asks for no similarity.
        """
        return None

    @classmethod
    def soft_targets(cls, config: Any) -> float | None:
        """Return T if the teacher is read as softmax(logits / T) alone, with a linear gradient.

        Then an unbiased estimate of the softmax may stand for it. Terms and gradients of such a
        method are finite if logits of the teacher are -inf. Other methods return None.
        """
        return None

    @classmethod
    def revision(cls, config: Any) -> int:
        """Return how often the meaning of these settings has changed; it is part of a cell's key.

        A method of the catalogue that computes something else than before with equal settings, or
        whose defaults are others, returns one more than before.
        """
        return 0

    @classmethod
    def scale(cls, config: Any) -> Scale | None:
        """Return the terms' weights; None for a method without a cross-entropy with the labels.

        Where a matrix lets the transfer count for a part of the training only, the loop carries on
        with the cross-entropy alone outside that part: `loss` is not called there in a phase that
        reads the teacher.
        """
        return Scale(float(getattr(config, "ce_weight", 1.0)))

    def paired_stages(self) -> Sequence[tuple[int, int]]:
        """Return the pairs (teacher stage, student stage) that are compared, for the report."""
        return ()

    def phases(self) -> Sequence[Phase]:
        """Return the phases of the training; the last one ends at 1."""
        return (Phase("train"),)

    @abstractmethod
    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """Return named scalar terms, weights included, that add up to the current phase's loss.

        The term `ce` is `batch.supervised`: the cross-entropy with the labels.
        """


def batch_generator(batch: Batch) -> torch.Generator:
    """Return a generator on the CPU for this step's draws, the same in every process."""
    return torch.Generator().manual_seed(batch.seed)
