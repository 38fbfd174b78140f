"""Stages of a network that names none: found in one pass, where the map's size changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOST = 5
"""Most stages that are named: the last ones."""
BLOCKS = 4
"""Stages of a network whose maps or tokens never change their size."""
SIDES = (64, 224, 32)
"""Sides of the images that are tried, as some networks take one size only."""
_WRAPPERS = 3
"""Depth to which the parts of a network are looked for in modules that hold it as a whole."""


@dataclass(frozen=True)
class _Output:
    name: str
    shape: tuple[int, ...]
    tensor: int
    """Identity of the tensor, which the pass holds."""


def found_stages(network: nn.Module, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of modules whose outputs are a network's stages, in order.

    A network's parts are its children, with sequences taken apart. A stage ends with the last part
    that returns a map (B, C, H, W) of its size; of more than five stages the last five count, and
    maps of one pixel do not. A network of tokens (B, N, D), or of maps of one size, has four
    stages, evenly spread over its longest sequence. A network of timm's says its stages itself
    (`feature_info`). Empty where a network takes no image of the sizes that are tried, or shows
    neither.
    """
    if declared := _declared(network):
        return declared
    was_training = network.training
    try:
        return next(filter(None, (_stages(network.eval(), sizes, side) for side in SIDES)), ())
    finally:
        network.train(was_training)


def _declared(network: nn.Module) -> tuple[str, ...]:
    """Return the stages that timm's `feature_info` lists, as far as they are modules' outputs."""
    modules = dict(network.named_modules())
    info = getattr(network, "feature_info", None)
    entries = getattr(info, "info", info)
    listed = entries if isinstance(entries, list) else []
    names = [str(entry.get("module", "")) for entry in listed if isinstance(entry, dict)]
    if len(names) < 2 or any(name not in modules for name in names):
        return ()
    reductions = [entry.get("reduction") for entry in listed]
    return tuple(names[-MOST:]) if len(set(reductions)) > 1 else _evenly(names)


def _stages(network: nn.Module, sizes: Mapping[str, int], side: int) -> tuple[str, ...]:
    outputs = _outputs(network, torch.zeros(1, sizes["in_channels"], side, side))
    outermost = {output.tensor: output.name for output in outputs}  # a parent returns last
    tokens = {output.name for output in outputs if len(output.shape) == 3}
    for depth in range(_WRAPPERS):
        parts = set(_parts(network, depth))
        ends: dict[tuple[int, ...], str] = {}
        for output in outputs:
            if output.name in parts and len(output.shape) == 4 and max(output.shape[2:]) > 1:
                ends.pop(output.shape[2:], None)  # sizes stay in the order of their last map
                ends[output.shape[2:]] = outermost[output.tensor]
        if len(ends) > 1:
            return tuple(ends.values())[-MOST:]
        if spread := _spread(network, tokens):
            return spread
    return _spread(network, {output.name for output in outputs})


def _parts(module: nn.Module, depth: int, name: str = "") -> Iterator[str]:
    """Name the parts of a module; modules that are no sequences are taken apart `depth` times."""
    for child, part in module.named_children():
        path = f"{name}.{child}" if name else child
        if isinstance(part, nn.Sequential | nn.ModuleList):
            yield from _parts(part, depth, path)
        elif depth and any(part.children()):
            yield from _parts(part, depth - 1, path)
        else:
            yield path


def _outputs(network: nn.Module, images: Tensor) -> list[_Output]:
    """Run the network and list what its modules returned, in order; empty where it fails."""
    outputs: list[_Output] = []
    held: list[Tensor] = []

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() in (3, 4):
            held.append(output)  # so that no later tensor gets its identity
            outputs.append(_Output(name, tuple(output.shape), id(output)))

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network(images)
    except Exception:  # a network may fail in any way for a size that it does not take
        return []
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _spread(network: nn.Module, ran: set[str]) -> tuple[str, ...]:
    """Return up to four members of the longest sequence whose members ran, evenly spread."""
    sequences = (
        [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        for name, module in network.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
    )
    shown = ([name for name in sequence if name in ran] for sequence in sequences)
    longest = max(shown, key=len, default=[])
    return _evenly(longest) if len(longest) > 1 else ()


def _evenly(names: list[str]) -> tuple[str, ...]:
    """Return up to four of the names, evenly spread, the last among them."""
    count = min(BLOCKS, len(names))
    return tuple(names[(number + 1) * len(names) // count - 1] for number in range(count))
