"""The contract of students: networks whose stages, embedding and logits methods can read.

A file of this folder is a family of networks. It defines

    VARIANTS: tuple[str, ...]
    def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student

Keywords without a default are sizes that the data gives: these two for images; other tasks give
others, and a student learns the tasks that give what its `build` asks for. So is a keyword of type
`OptionalSize`, which only some of its tasks give. Other keywords with a default are settings.
`width` multiplies every width. Most families return a `StagedNetwork`, built from a list of stages
and a head. Nothing is registered: the folder is the catalogue. CONTRIBUTING.md has a whole file as
an example.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NewType

from torch import Tensor, nn
from torch.nn import functional

Inputs = Tensor | tuple[Tensor, ...]
"""Inputs of a network for a batch: one tensor (B, ...), or several of them."""


def parts(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of a network's inputs."""
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return inputs with every tensor changed alike."""
    return change(inputs) if isinstance(inputs, Tensor) else tuple(map(change, inputs))


class Heads(NamedTuple):
    """One layer's self-attention before its softmax: query, key and value, each (B, heads, N, D).

    D is one head's width; scores are `query @ key.mT / sqrt(D)`, without any mask.
    """

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """Outputs of one forward pass that a transfer method may read.

    logits (B, K), or (B * predictions, K) of a task with several predictions per sample; stages:
    outputs after activation, each a map (B, C, H, W) or tokens (B, N, D); embedding (B, D): what
    the classifier reads; preacts: the stages before their activation, empty unless asked for; stem:
    the stem's output, where the network has one; sums: of a network whose stages end in a BatchNorm
    and its activation (pre-activation networks), the stages before both, and empty for all other
    networks; attentions: the heads of each self-attention layer, in order; mask (B, N): true where
    a token counts, None where all of them do.
    """

    logits: Tensor
    stages: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None
    preacts: tuple[Tensor, ...] = ()
    stem: Tensor | None = None
    sums: tuple[Tensor, ...] = ()
    attentions: tuple[Heads, ...] = ()
    mask: Tensor | None = None


TeacherName = NewType("TeacherName", str)
"""The type of a `build`'s setting that names a teacher of the matrix.

That teacher's network is then given in the setting of type `Student`, and the student's training
begins from blocks of it. The setting's default stands for each teacher of the matrix.
"""


OptionalSize = NewType("OptionalSize", int)
"""The type of a `build`'s keyword for a size that only some tasks give; else it has its default."""


FilePath = NewType("FilePath", str)
"""The type of a setting that names a file or folder, relative to the matrix file.

A key holds a digest of what it contains in place of the path.
"""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Weights to begin from: the type of a `build`'s setting that names their folder.

    The folder has the layout of Hugging Face's `transformers`: `config.json`, `model.safetensors`.
    """

    folder: str
    config: Mapping[str, Any]
    """Sizes of the network and what else that library says of it."""
    weights: Mapping[str, Tensor]
    """Tensors by that library's names."""


FirstWeights = Literal["blocks", "random"]
"""The type of the setting beside it that says where the training begins: from the teacher's blocks,
or, as a control, from random weights."""


class Student(nn.Module):
    """A network that can be exported by `forward` and distilled by `forward_features`."""

    stage_names: tuple[str, ...]
    """One name per stage, in order."""
    head_names: tuple[str, ...] = ("head.",)
    """Beginnings of the names of weights that belong to the task's outputs alone: a student that
    begins from another training's weights draws them anew."""
    has_preacts: bool = True
    """True if `forward_features` may be asked for pre-activations."""

    @abstractmethod
    def forward_features(self, inputs: Any, *, preacts: bool = False) -> Features:
        """Run the network once and return everything that methods may read.

        `inputs` are those of the task (`Inputs`): one tensor, or a tuple of them. With `preacts`,
        the stages before their activation are returned from the same pass: no module runs twice,
        so each BatchNorm updates once.
        """

    def forward(self, inputs: Any) -> Tensor:
        """Return the logits (B, K); this is what is exported."""
        return self.forward_features(inputs).logits

    @property
    def structure(self) -> str:
        """The part of the structure that weights decided; empty if the settings decide all of it.

        Networks of equal settings and structure are built alike.
        """
        return ""

    def suit(self, state: Mapping[str, Tensor]) -> None:
        """Adopt the structure of these weights, if weights decide on the network's structure.

        Called before they are loaded. Raises ValueError, in one line, if they do not fit.
        """


class Deployable(nn.Module):
    """A part of a network that is trained in one form and exported in an equal, cheaper one."""

    @abstractmethod
    def deployed(self) -> nn.Module:
        """Return what computes the same in evaluation, with the weights as they stand."""


class GlobalMean(nn.Module):
    """The mean over a map's pixels: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean((2, 3))


class StagedNetwork(Student):
    """A network whose stages run one after the other, each closed by an activation.

    `stages` return their output *before* the activation, which is applied here, so that both are
    known from one pass. `embed` turns the last stage into the head's input, by default the mean
    over a map's pixels. A network that begins with its first stage has no stem.
    """

    def __init__(
        self,
        *,
        stem: nn.Module | None = None,
        stages: Sequence[nn.Module],
        head: nn.Module,
        embed: nn.Module | None = None,
        stage_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.embed = GlobalMean() if embed is None else embed
        self.head = head
        names = stage_names or [f"stage{i + 1}" for i in range(len(stages))]
        self.stage_names = tuple(names)

    def activate(self, preact: Tensor) -> Tensor:
        """Apply the activation that closes a stage; never in place, as `preact` may be read."""
        return functional.relu(preact)

    def run_stage(self, stage: nn.Module, x: Tensor, sums: list[Tensor]) -> Tensor:
        """Return a stage's output before its activation.

        A pre-activation network adds what precedes its last BatchNorm to `sums`.
        """
        preact: Tensor = stage(x)
        return preact

    def forward_features(self, inputs: Tensor, *, preacts: bool = False) -> Features:
        """See `Student.forward_features`."""
        stem = self.stem(inputs) if self.stem is not None else None
        x = inputs if stem is None else stem
        before: list[Tensor] = []
        after: list[Tensor] = []
        sums: list[Tensor] = []
        for stage in self.stages:
            preact = self.run_stage(stage, x, sums)
            x = self.activate(preact)
            if preacts:
                before.append(preact)
            after.append(x)
        embedding = self.embed(x)
        shown = tuple(after), embedding, tuple(before), stem, tuple(sums)
        return Features(self.head(embedding), *shown)


def scaled(channels: int, width: float) -> int:
    """Return a layer's width times a multiplier, rounded and at least one.

    Raises ValueError for a multiplier that is not above zero.
    """
    if not width > 0:
        raise ValueError(f"width must be above 0, not {width}")
    return max(1, round(channels * width))
