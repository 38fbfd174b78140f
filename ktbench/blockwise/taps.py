"""Reads the input and output of blocks of a running network, without copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ktbench.records import KtbenchError
from ktbench.students._blocks import Block
from ktbench.students._contract import Inputs

AtEnd = Callable[[Tensor, Tensor], Tensor | None]
"""Receives a block's input and output (B, C, H, W); may return what replaces the output."""


class Taps:
    """Hooks at the ends of blocks of one network, which must be run without gradient.

    The output is as the block's last module returned it, before anything behind the block (such
    as an in-place activation) changes it. Blocks that change their own input are found with a
    `few` images, and their input is copied from then on.
    """

    def __init__(self, network: nn.Module, blocks: Sequence[Block], few: Inputs) -> None:
        self._network = network
        self._changed: set[Block] = set()
        self._run: list[Block] = []
        self._check(blocks, few)

    @contextmanager
    def at(self, block: Block, then: AtEnd) -> Iterator[None]:
        """Call `then` at the block's end in every pass of the network inside the `with` block."""
        held: list[Tensor] = []

        def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            [given] = arguments
            held[:] = [given.clone() if block in self._changed else given]

        def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return then(held.pop(), output)

        first = self._network.get_submodule(block.name)
        last = self._network.get_submodule(block.end)
        with ExitStack() as hooks:
            hooks.callback(first.register_forward_pre_hook(before).remove)
            hooks.callback(last.register_forward_hook(after).remove)
            yield

    def _check(self, blocks: Sequence[Block], few: Inputs) -> None:
        with ExitStack() as stack, torch.no_grad():
            for block in set(blocks):
                stack.enter_context(self._watching(block))
            self._network(few)
        for block in blocks:
            if self._run.count(block) != 1:
                times = "several times" if block in self._run else "never"
                raise KtbenchError(f"block {block.name} runs {times} in a pass of the teacher")

    @contextmanager
    def _watching(self, block: Block) -> Iterator[None]:
        versions: list[int] = []

        def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            versions[:] = [arguments[0]._version]

        def look(given: Tensor, _: Tensor) -> None:
            self._run.append(block)
            if given._version != versions[0]:
                self._changed.add(block)

        first = self._network.get_submodule(block.name)
        with ExitStack() as hooks:
            hooks.callback(first.register_forward_pre_hook(before).remove)
            hooks.enter_context(self.at(block, look))
            yield
