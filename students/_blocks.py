"""Blocks of a network that a cheaper module can stand for: where they are, and how one goes in.

A block is a module, or a run of modules in a plain `nn.Sequential`: a convolution with the
BatchNorm behind it, or what a stage computes. A replacement is one file of `replacements/`:

    def build(geometry: Geometry, *, setting=default, ...) -> nn.Module

It may say how it begins from the weights of the block that it stands for:

    def adopt(replacement: nn.Module, block: nn.Sequential) -> None
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ktbench.students._contract import StagedNetwork, Student
from ktbench.students._own import INNER
from ktbench.students._replacements import Replacement as Replacement
from ktbench.students._replacements import found

Kind = Literal["convolutions", "stages"]
Where = Kind | tuple[str, ...]
"""Every 3 × 3 convolution, every stage, or the modules of these names."""
KEEP = "keep"
"""In a list of replacements, block by block: this one stays the network's own."""
PROBE = 16
"""Pixels a side of the map that shows what a block does to sizes."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """A block's effect on shapes: (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""

    inputs: int
    outputs: int
    stride: int


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a network: the children `first` to `last` of the sequence `parent`.

    `parent` is a path as `get_submodule` takes it, empty for the network itself; `first` and
    `last` are equal where the block is one module, of a parent of any kind.
    """

    parent: str
    first: str
    last: str
    geometry: Geometry

    @property
    def name(self) -> str:
        """The path of its first module: unique within a network."""
        return _joined(self.parent, self.first)

    @property
    def end(self) -> str:
        """The path of its last module, whose output is the block's."""
        return _joined(self.parent, self.last)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all its modules."""
        if self.first == self.last:
            return (self.name,)
        numbers = range(int(self.first), int(self.last) + 1)
        return tuple(_joined(self.parent, str(number)) for number in numbers)

    def modules(self, network: nn.Module) -> nn.Sequential:
        """The block as it stands in a network: the same modules, not copies."""
        return nn.Sequential(*(network.get_submodule(path) for path in self.paths))

    def put(self, network: nn.Module, replacement: nn.Module) -> None:
        """Put a module in the block's place; what stood behind its first module does nothing.

        Every other path of the network stays what it was.
        """
        network.set_submodule(self.name, replacement)
        for path in self.paths[1:]:
            network.set_submodule(path, nn.Identity())


class Replacing(Student):
    """A student that is a network with blocks of its own replaced."""

    network: Student
    blocks: tuple[Block, ...]
    """All that were found, replaced or not."""
    entries: Mapping[str, Replacement]
    """By block that may be replaced: what by."""
    chosen: Tensor
    """(blocks,) int64, a buffer: a one per block that is replaced; `suit` reads it of weights."""

    @property
    @abstractmethod
    def replacements(self) -> dict[str, nn.Module]:
        """By block: what may stand for it, whether it is in use or not."""


def build_replacement(block: Block, entry: Replacement) -> nn.Module:
    """Build the replacement of a block, initialised from torch's global generator.

    Raises ValueError, in one line, for a name, a setting or a value that cannot be.
    """
    file, settings = found(entry)
    module: nn.Module = file.build(block.geometry, **settings)
    return module


def adopt(block: Block, entry: Replacement, replacement: nn.Module, network: nn.Module) -> None:
    """Start a replacement from the weights of what it replaces, where its file knows how to.

    The network's own modules stay as they are.
    """
    start = getattr(found(entry)[0], "adopt", None)
    if start is not None:
        with torch.no_grad():
            start(replacement, block.modules(network))


def find_blocks(network: Student, where: Where) -> tuple[Block, ...]:
    """The blocks of a network, in the order in which its modules are registered.

    Raises ValueError, in one line, where there are none or a name is not a module.
    """
    if where == "convolutions":
        blocks = tuple(_convolutions(network))
        missing = "it has no 3 × 3 convolution of one group"
    elif where == "stages":
        blocks = tuple(_stages(network))
        missing = "it has no list of stages"
    else:
        return tuple(_named(network, name) for name in where)
    if not blocks:
        raise ValueError(f"no blocks to replace: {missing}; name modules in `blocks`")
    return blocks


def _convolutions(network: nn.Module) -> Iterator[Block]:
    for path, module in network.named_modules():
        for name, child in module.named_children():
            if not _is_convolution(child):
                continue
            last = _normalisation(module, name, child)
            geometry = Geometry(child.in_channels, child.out_channels, child.stride[0])
            yield Block(path, name, last, geometry)


def _is_convolution(module: nn.Module) -> bool:
    """Dense, 3 × 3, and such that a map keeps its size over the stride."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.groups == 1
        and module.padding in ((1, 1), "same")
        and module.dilation == (1, 1)
        and module.stride[0] == module.stride[1]
    )


def _normalisation(parent: nn.Module, name: str, convolution: nn.Conv2d) -> str:
    """The name of the BatchNorm right behind a convolution, else of the convolution itself."""
    if type(parent) is not nn.Sequential:
        return name
    behind = str(int(name) + 1)
    following = dict(parent.named_children()).get(behind)
    if not isinstance(following, nn.BatchNorm2d):
        return name
    return behind if following.num_features == convolution.out_channels else name


def _stages(network: Student) -> Iterator[Block]:
    if not isinstance(network, StagedNetwork):
        return
    for number, stage in enumerate(network.stages):
        path = f"stages.{number}"
        if type(stage) is not nn.Sequential:
            yield Block("stages", str(number), str(number), _probed(stage))
            continue
        # What has no parameters at a stage's start (pooling) stays: nothing is saved there.
        first = next(i for i, m in enumerate(stage) if any(True for _ in m.parameters()))
        run = nn.Sequential(*list(stage)[first:])
        yield Block(path, str(first), str(len(stage) - 1), _probed(run))


def _named(network: nn.Module, name: str) -> Block:
    """A user's own network knows its modules by the names without the wrapper's."""
    modules = dict(network.named_modules())
    path = name if name in modules or INNER + name not in modules else INNER + name
    if path not in modules:
        raise ValueError(f"no module {name!r} in the network to replace blocks of")
    parent, _, child = path.rpartition(".")
    if not child:
        raise ValueError("a block is a part of a network, not all of it")
    try:
        return Block(parent, child, child, _probed(modules[path]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _probed(module: nn.Module) -> Geometry:
    """From one pass over zeros; ValueError where the module does not map a map to a map."""
    inputs = _input_channels(module)
    training = module.training
    try:
        with torch.no_grad():
            shape = module.eval()(torch.zeros(1, inputs, PROBE, PROBE)).shape
    except Exception as error:  # whatever a module does with a map that it was not made for
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"a block must map a map to a map: {reason}") from error
    finally:
        module.train(training)
    if len(shape) != 4 or not shape[2] or PROBE % shape[2]:
        raise ValueError(f"a block must map a map to a map, not to {tuple(shape)}")
    return Geometry(inputs, shape[1], PROBE // shape[2])


def _input_channels(module: nn.Module) -> int:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            return part.in_channels
        if isinstance(part, nn.BatchNorm2d):
            return part.num_features
    raise ValueError("a block needs a convolution or a BatchNorm2d, to know its channels by")


def parameters_of(modules: nn.Module | Sequence[nn.Module]) -> int:
    """Trainable numbers."""
    each = [modules] if isinstance(modules, nn.Module) else modules
    return sum(p.numel() for module in each for p in module.parameters())


def _joined(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
