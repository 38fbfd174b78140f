"""A network with blocks of its own replaced by cheaper ones: the student of blockwise distillation.

Blakeney et al. (arXiv 2012.03096): each block of a teacher is replaced by one that was trained
alone to reproduce it; the rest of the teacher stays. `of` names that teacher in a matrix;
`network`, its architecture, is then filled in.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ktbench.students._blocks import (
    KEEP,
    Block,
    Replacing,
    Where,
    build_replacement,
    find_blocks,
    parameters_of,
)
from ktbench.students._contract import Features, FirstWeights, Student, TeacherName
from ktbench.students._replacements import Replacement

VARIANTS = ("blockwise",)


def build(
    variant: str,
    *,
    num_classes: int,
    in_channels: int,
    network: Student | None = None,
    of: TeacherName = TeacherName("teacher"),  # noqa: B008 - a name, which nothing changes
    blocks: Where = "convolutions",
    replace: Replacement = "separable",
    choice: tuple[Replacement, ...] = (),
    start: FirstWeights = "blocks",
) -> Student:
    """`network` with its blocks replaced, freshly initialised.

    `replace` goes to every block that it makes smaller. `choice` says it block by block instead,
    `keep` where a block stays. `start` changes nothing of the network. Raises ValueError for a
    network without such blocks, and for none.
    """
    del start  # the matrix acts on it
    if network is None:
        raise ValueError("it is made of a teacher's network: name the teacher in `of`")
    targets = find_blocks(network, blocks)
    if choice and len(choice) != len(targets):
        raise ValueError(f"choice names {len(choice)} replacements for {len(targets)} blocks")
    labels = choice or tuple(replace for _ in targets)
    modules = [
        None if entry == KEEP else build_replacement(block, entry)
        for block, entry in zip(targets, labels, strict=True)
    ]
    if not choice:
        pairs = zip(targets, modules, strict=True)
        modules = [_if_smaller(block.modules(network), module) for block, module in pairs]
    parts = {block.name: m for block, m in zip(targets, modules, strict=True) if m is not None}
    entries = {block.name: entry for block, entry in zip(targets, labels, strict=True)}
    return Blockwise(network, targets, parts, {name: entries[name] for name in parts})


class Blockwise(Replacing):
    """A network some of whose blocks are replaced; which ones is part of its weights.

    `chosen` holds a one per replaced block: a block whose replacement does not reproduce it well
    enough stays the teacher's, which is known only once it was trained.
    """

    def __init__(
        self,
        network: Student,
        blocks: tuple[Block, ...],
        replacements: Mapping[str, nn.Module],
        entries: Mapping[str, Replacement],
    ) -> None:
        super().__init__()
        self.network = network
        self.stage_names = network.stage_names
        self.has_preacts = network.has_preacts
        self.blocks = blocks
        self.entries = dict(entries)
        self._own = {b.name: b.modules(network) for b in blocks}
        self._made = dict(replacements)
        self._replaced = [False] * len(blocks)
        self.register_buffer("chosen", torch.zeros(len(blocks), dtype=torch.int64))
        self._choose([block.name in self._made for block in blocks])

    @property
    def replacements(self) -> dict[str, nn.Module]:
        """See `Replacing`."""
        return dict(self._made)

    @property
    def structure(self) -> str:
        """A digit per block: 1 where it is replaced."""
        return "".join(str(int(replaced)) for replaced in self._replaced)

    def suit(self, state: Mapping[str, Tensor]) -> None:
        """Replace the very blocks that these weights replace; ValueError where one cannot be."""
        chosen = state.get("chosen")
        if chosen is None or chosen.shape != self.chosen.shape:
            raise ValueError("these weights do not say which blocks are replaced")
        self._choose([bool(value) for value in chosen.tolist()])

    def forward_features(self, inputs: Tensor, *, preacts: bool = False) -> Features:
        """See `Student.forward_features`."""
        return self.network.forward_features(inputs, preacts=preacts)

    def forward(self, inputs: Tensor) -> Tensor:
        """See `Student.forward`."""
        logits: Tensor = self.network(inputs)
        return logits

    def _choose(self, replaced: list[bool]) -> None:
        for block, is_replaced in zip(self.blocks, replaced, strict=True):
            if is_replaced and block.name not in self._made:
                raise ValueError(f"block {block.name} has no replacement")
        for number, (block, is_replaced) in enumerate(zip(self.blocks, replaced, strict=True)):
            if is_replaced != self._replaced[number]:
                self._swap(block, is_replaced)
        self._replaced = replaced
        self.chosen.copy_(torch.tensor(replaced, dtype=torch.int64))

    def _swap(self, block: Block, replaced: bool) -> None:
        original = self._own[block.name]
        if not replaced:
            self._like_us(original)
            for path, module in zip(block.paths, original.children(), strict=True):
                self.network.set_submodule(path, module)
            return
        block.put(self.network, self._like_us(self._made[block.name]))
        # Whoever reads what the block's last module returns reads what now stands for it.
        end = self.network.get_submodule(block.end)
        if not end._forward_hooks:
            for hook in original[-1]._forward_hooks.values():
                end.register_forward_hook(hook)

    def _like_us(self, module: nn.Module) -> nn.Module:
        """Give a block that was not in use this network's mode and device."""
        return module.to(self.chosen.device).train(self.training)


def _if_smaller(original: nn.Module, replacement: nn.Module | None) -> nn.Module | None:
    smaller = replacement is not None and parameters_of(replacement) < parameters_of(original)
    return replacement if smaller else None
