"""The network as it is deployed: raw samples in, logits out, batch normalisation folded away.

Folding makes every constant of an exported graph a plain copy of one tensor here, so that a graph
converted once can be filled with another student's weights (`template.py`).
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from ktbench.export.quiet_output import quiet
from ktbench.students._contract import Deployable, parts
from ktbench.tasks._contract import InputSpec

Layout = Literal["NCHW", "NHWC"]
State = dict[str, NDArray[np.float32]]

CONV = ("conv2d.default", "conv2d.padding")


@dataclass(frozen=True)
class Folding:
    """The modules of an architecture that are folded, by name.

    `pairs` are convolutions with the batch normalisation that alone reads them; `alone` are the
    other batch normalisations, which become a scale and a shift; `first` is the convolution that
    alone reads the network's input, so that it can take over the normalisation of the data.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    alone: tuple[str, ...] = ()
    first: str | None = None


class Affine(nn.Module):
    """A batch normalisation at inference: one scale and one shift per channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.view(-1, 1, 1))
        self.shift = nn.Parameter(shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift a (B, C, H, W) map."""
        return x * self.scale + self.shift


class Deployed(nn.Module):
    """A student behind the normalisation of its data: raw samples to logits (B, K).

    Real numbers are float32, whole numbers int32. Maps are (B, C, H, W), or (B, H, W, C) with
    layout `NHWC`. The normalisation is that of the first input; what the network itself has taken
    over of it is None here. A front turns raw samples into the network's inputs before all else.
    """

    mean: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[InputSpec, ...],
        mean: Tensor | None,
        scale: Tensor | None,
        layout: Layout,
        front: nn.Module | None = None,
    ) -> None:
        super().__init__()
        view = (1, -1, 1, 1) if layout == "NCHW" else (1, 1, 1, -1)
        self.front = front
        self.network = network
        self.inputs = inputs
        self.layout = layout
        self.register_buffer("mean", None if mean is None else mean.clone().view(view))
        self.register_buffer("scale", None if scale is None else scale.clone().view(view))

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Return logits (B, K) of raw samples."""
        if self.front is not None:
            return self._logits(parts(self.front(first, *others)))
        x = first
        if self.mean is not None:
            x = x - self.mean
        if self.scale is not None:
            x = x * self.scale
        return self._logits(tuple(self._read(part) for part in (x, *others)))

    def _logits(self, read: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = self.network(read if len(read) > 1 else read[0])
        return logits

    def _read(self, part: Tensor) -> Tensor:
        """Return an input as the network reads it."""
        if not part.is_floating_point():
            return part.long()
        return part.permute(0, 3, 1, 2) if self.layout == "NHWC" and part.dim() == 4 else part

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return blank samples (B, ...) in the file's layout and types, one tensor per input."""
        return tuple(
            torch.zeros(batch, *each.shape_in(self.layout), dtype=getattr(torch, each.file_type))
            for each in self.inputs
        )

    def weights(self) -> dict[str, Tensor]:
        """Return every float tensor in which students of one data set may differ, by name."""
        tensors = [*self.named_parameters(), *self.named_buffers()]
        return {
            name: tensor
            for name, tensor in tensors
            if tensor.dtype == torch.float32 and not name.startswith("front.")
        }

    def state(self) -> State:
        """Return the values of `weights`."""
        return {
            name: np.ascontiguousarray(tensor.detach().numpy())
            for name, tensor in self.weights().items()
        }


class _LeafCopies(TorchFunctionMode):
    """Lets `copy.deepcopy` copy a tensor that was computed, as a leaf with its values.

    `torch.nn.utils.weight_norm`, `spectral_norm` and `prune` keep such a tensor in place of the
    weight, which torch refuses to copy.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            copied = args[0].detach().clone()
            args[1][id(args[0])] = copied
            return copied
        return func(*args, **(kwargs or {}))


def plain_copy(student: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose weights are plain parameters, however they were computed.

    So a parametrized convolution is exported like any other. The student is left unchanged.
    """
    with _LeafCopies(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = copy.deepcopy(student).eval()
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            _bake(module, hook)
    return network


def _in_deployed_form(student: nn.Module) -> nn.Module:
    """Return a plain copy in which every part has the form that is exported."""
    network = plain_copy(student)
    for name, module in list(network.named_modules()):
        if isinstance(module, Deployable):
            network.set_submodule(name, module.deployed())
    return network


def _bake(module: nn.Module, hook: Any) -> None:
    """Replace what a hook computes a weight from by the weight itself."""
    if isinstance(hook, WeightNorm):
        nn.utils.remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        nn.utils.remove_spectral_norm(module, hook.name)
    elif isinstance(hook, prune.BasePruningMethod):
        prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]


def deploy(
    student: nn.Module,
    folding: Folding,
    inputs: tuple[InputSpec, ...],
    moments: tuple[Tensor, Tensor] | None,
    layout: Layout,
    front: nn.Module | None = None,
) -> Deployed:
    """Return the deployed form of a trained student, which is left unchanged.

    `inputs` are those of the file. `moments` are mean and deviation (C,) of the first input's raw
    training samples; None for what takes its inputs as they are.
    """
    network = _in_deployed_form(student).requires_grad_(False)
    with torch.no_grad():
        for conv, norm in folding.pairs:
            _fold_pair(network, conv, norm)
        for norm in folding.alone:
            scale, shift = _scale_and_shift(network.get_submodule(norm))
            network.set_submodule(norm, Affine(scale.float(), shift.float()))
        left = _fold_moments(network, folding.first, *moments) if moments else (None, None)
    deployed = Deployed(network, inputs, *left, layout, front).eval().requires_grad_(False)
    # LiteRT's converter copies strided constants to tell them apart by address, and takes a copy
    # of the same shape, at the address of an earlier one, for the same constant.
    for tensor in (*deployed.parameters(), *deployed.buffers()):
        tensor.data = tensor.data.contiguous()
    return deployed


def _fold_moments(
    network: nn.Module, first: str | None, mean: Tensor, std: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Let the first convolution normalise; return the mean and scale that it cannot take over.

    It can always divide. It can subtract only without padding: zeros around a normalised image
    are not zeros around a raw one.
    """
    if first is None:
        return mean, 1 / std
    conv = network.get_submodule(first)
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.double() / std.double().view(1, -1, 1, 1)
    conv.weight.copy_(weight.float())
    if conv.padding not in ((0, 0), "valid"):
        return mean, None
    shift = -(weight.sum((2, 3)) @ mean.double())
    bias = shift if conv.bias is None else shift + conv.bias.double()
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return None, None


def _fold_pair(network: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = network.get_submodule(conv_name)
    assert isinstance(conv, nn.Conv2d)
    scale, shift = _scale_and_shift(network.get_submodule(norm_name))
    bias = shift if conv.bias is None else shift + scale * conv.bias.double()
    conv.weight.copy_((conv.weight.double() * scale.view(-1, 1, 1, 1)).float())
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    network.set_submodule(norm_name, nn.Identity())


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale and shift (C,), float64, of a batch normalisation at inference."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def plan_folding(student: nn.Module, inputs: tuple[InputSpec, ...]) -> Folding:
    """Find what can be folded in an architecture without changing its outputs.

    Found in the traced graph, not in the module tree, so that a residual that reads a convolution
    before its normalisation is seen.
    """
    network = plain_copy(student)
    try:
        folding = _from_graph(_in_deployed_form(network), inputs)
        generator = torch.Generator().manual_seed(0)
        first, *others = (_drawn(each, generator) for each in inputs)
        with torch.no_grad():
            if inputs[0].below is None:
                channels = inputs[0].shape[0]
                moments = (torch.full((channels,), 120.0), torch.full((channels,), 60.0))
                read = ((first - 120) / 60, *others)
            else:
                moments, read = None, (first, *others)
            expected = network(read if others else read[0])
            folded = deploy(network, folding, inputs, moments, "NCHW")(first, *others)
    except Exception:  # any network of a user's may fail here: then it is exported as it is
        return Folding()
    same = torch.allclose(folded, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return folding if same else Folding()


def _drawn(spec: InputSpec, generator: torch.Generator) -> Tensor:
    if spec.below is not None:
        return spec.drawn(4, generator)
    return torch.randint(0, 256, (4, *spec.shape), generator=generator).float()


def traced(network: nn.Module, inputs: tuple[InputSpec, ...]) -> torch.export.ExportedProgram:
    """Return the graph of a network."""
    blank = tuple(each.zeros(2) for each in inputs)
    with quiet():
        return torch.export.export(network, (blank if len(blank) > 1 else blank[0],))


def _from_graph(network: nn.Module, inputs: tuple[InputSpec, ...]) -> Folding:
    program = traced(network, inputs)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    given = set(signature.user_inputs)
    pairs, alone, first = [], [], None
    for node in program.graph.nodes:
        if calls(node, CONV) and node.args[0].name in given and len(node.args[0].users) == 1:
            first = owner(network, node.args[1], names, nn.Conv2d)
            first = first if first and _groups(network, first) == 1 else None
        if not calls(node, ("batch_norm.default",)):
            continue
        norm = owner(network, node.args[3], names, nn.BatchNorm2d)
        if norm is None:
            continue
        source = node.args[0]
        conv = None
        if calls(source, CONV) and len(source.users) == 1:
            conv = owner(network, source.args[1], names, nn.Conv2d)
        if conv is None:
            alone.append(norm)
        else:
            pairs.append((conv, norm))
    return Folding(tuple(pairs), tuple(alone), first)


def calls(node: torch.fx.Node, targets: tuple[str, ...]) -> bool:
    """Tell if a node of a traced graph calls one of these ATen operators."""
    return node.op == "call_function" and str(node.target) in {f"aten.{t}" for t in targets}


def owner(
    network: nn.Module, tensor: torch.fx.Node, names: dict[str, str], kind: type[nn.Module]
) -> str | None:
    """Return the name of the module that owns a tensor of the graph, if it is used only once."""
    if tensor.name not in names or len(tensor.users) != 1:
        return None
    name = names[tensor.name].rpartition(".")[0]
    return name if type(network.get_submodule(name)) is kind else None


def _groups(network: nn.Module, name: str) -> int:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv.groups


def probe(network: Deployed, seed: int) -> Deployed:
    """Return a copy in which every tensor of `weights` holds its own random values in [0.5, 1.5).

    Converted in place of a real student, it shows which constant of the graph is which tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in copied.weights().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return copied
