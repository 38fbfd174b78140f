"""Changes of a deployed network's weights that make it lose less in int8.

Both are those of Nagel et al., "Data-free quantization through weight equalization and bias
correction" (2019): sections 4.1 and 4.2, with the mean of a layer's inputs taken from training
samples instead of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ktbench.export.deployed_network import CONV, Deployed, calls, owner, traced
from ktbench.tasks._contract import InputSpec

Chain = tuple[str, str]
"""Names of two convolutions: the second alone reads the first, at most through a ReLU."""
SWEEPS = 20
"""Passes over all chains; a convolution between two others belongs to two of them."""
_PASSED = ("relu.default", "relu_.default", "clone.default")
_BATCH = 64


def plan_chains(network: nn.Module, inputs: tuple[InputSpec, ...]) -> tuple[Chain, ...]:
    """Find the chains of an architecture whose batch normalisation is folded.

    They are found in the traced graph, so that whatever else reads a map ends its chain. A ReLU
    that is cut off above (ReLU6) is no chain: scaled values would be cut off elsewhere.
    """
    program = traced(network, inputs)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    chains = []
    for node in program.graph.nodes:
        if not calls(node, CONV):
            continue
        source = node.args[0]
        while calls(source, _PASSED) and len(source.users) == 1:
            source = source.args[0]
        if not (calls(source, CONV) and len(source.users) == 1):
            continue
        first, second = (owner(network, each.args[1], names, nn.Conv2d) for each in (source, node))
        if first is not None and second is not None:
            chains.append((first, second))
    return tuple(chains)


def equalise(network: nn.Module, chains: tuple[Chain, ...]) -> None:
    """Scale the channels between two convolutions so that both use the same range for each.

    The network computes what it did: what a channel's weights are divided by, the weights that read
    it are multiplied by (equation 11: the square root of the ranges' quotient).
    """
    with torch.no_grad():
        for _ in range(SWEEPS if chains else 0):
            for names in chains:
                first, second = (network.get_submodule(name) for name in names)
                assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
                _equalise_pair(first, second)


def _equalise_pair(first: nn.Conv2d, second: nn.Conv2d) -> None:
    given = first.weight.abs().amax((1, 2, 3)).double()  # (C,)
    grouped = second.weight.view(second.groups, -1, *second.weight.shape[1:])  # (G, O/G, C/G, h, w)
    read = grouped.abs().amax((1, 3, 4)).reshape(-1).double()  # (C,)
    factors = torch.sqrt(given / read)
    factors = torch.where((given > 0) & (read > 0), factors, 1.0)
    first.weight.div_(factors.view(-1, 1, 1, 1).float())
    if first.bias is not None:
        first.bias.div_(factors.float())
    grouped.mul_(factors.view(second.groups, 1, -1, 1, 1).float())


def correct_biases(network: Deployed, samples: Mapping[str, NDArray[Any]], levels: int) -> None:
    """Take from each bias the mean error that rounding its layer's weights makes (equation 17).

    `samples` are raw training samples (N, ...) by input, and `levels` is the greatest integer that
    stands for a weight. Layers without a bias stay as they are.
    """
    layers = [
        module
        for module in network.network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    ]
    with _means_of(layers) as means, torch.inference_mode():
        count = len(next(iter(samples.values())))
        for start in range(0, count, _BATCH):
            parts = [
                torch.from_numpy(np.array(samples[each.name][start : start + _BATCH]))
                for each in network.inputs
            ]
            types = [getattr(torch, each.file_type) for each in network.inputs]
            network(*(part.to(kind) for part, kind in zip(parts, types, strict=True)))
    with torch.no_grad():
        for layer, mean in zip(layers, means, strict=True):
            if mean.count and layer.bias is not None:
                error = rounded(layer.weight, levels).double() - layer.weight.double()
                layer.bias.sub_(_mean_output(layer, error, mean.total / mean.count).float())


def rounded(weight: Tensor, levels: int) -> Tensor:
    """Return weights as a runtime rounds them: symmetrically, with a step per output channel."""
    most = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1))
    step = torch.where(most > 0, most / levels, 1.0)
    return torch.round(weight / step) * step


class _Mean:
    """Mean of a layer's input channels, (C,)."""

    def __init__(self) -> None:
        self.total: Tensor = torch.zeros(())
        self.count = 0


@contextmanager
def _means_of(layers: list[Any]) -> Any:
    """Collect the means of what layers read while the block runs."""
    means = [_Mean() for _ in layers]

    def watch(mean: _Mean) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach().double()
            rows = x.movedim(1, -1) if isinstance(module, nn.Conv2d) else x
            rows = rows.reshape(-1, rows.shape[-1])
            mean.total, mean.count = mean.total + rows.sum(0), mean.count + len(rows)

        return hook

    hooks = [
        layer.register_forward_pre_hook(watch(mean))
        for layer, mean in zip(layers, means, strict=True)
    ]
    try:
        yield means
    finally:
        for hook in hooks:
            hook.remove()


def _mean_output(layer: nn.Conv2d | nn.Linear, weight: Tensor, mean: Tensor) -> Tensor:
    """Return what such weights give for a constant input of this mean, per output channel."""
    if isinstance(layer, nn.Linear):
        return weight @ mean
    kernel = weight.sum((2, 3)).view(layer.groups, -1, weight.shape[1])  # (G, O/G, C/G)
    return torch.einsum("goc,gc->go", kernel, mean.view(layer.groups, -1)).reshape(-1)
