"""Memory layout of a network's tensors, decided here for everything that runs one.

`channels_last` is the first choice: small convolutions are faster in it. A network with a layer
that triggers a known fault of oneDNN runs `contiguous` as a whole, and without oneDNN where it lays
its tensors out channels-last itself.

The fault (uxlfoundation/oneDNN#6035, in torch 2.13): the weight gradient of a 1x1 convolution with
a stride above 1 writes beyond its workspace where channels are last and there are fewer of them
than the kernel's block of 8 (`jit_1x1:avx2`). The heap is corrupted, the gradient is silently
wrong, or the process never returns. Forward passes and gradients of the input are right, as is
the weight gradient with groups, of transposed convolutions, and of convolutions over one or three
dimensions.

The block is that of AVX2 on every processor: the decision, and with it the bits, belongs to the
network alone, and the AVX-512 kernel, whose block is 16, is right for 1 to 15 channels. Laying out
only the layer that meets the fault would keep the others' layout, but convolutions called as
functions are out of reach, and the compiler undoes it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode

from ktbench.records import OWN_ERRORS, LayoutName, LayoutUsed, NumericSpec
from ktbench.students._contract import Inputs, Student, each, parts

BLOCK = 8
"""Least number of input channels for which the kernel's weight gradient is right."""
SAFER: dict[LayoutName, LayoutName | None] = {
    "channels_last": "contiguous",
    "contiguous": "contiguous_without_onednn",
    "contiguous_without_onednn": None,
}
"""Layout to try next where one gives wrong results."""
_aten = torch.ops.aten


@dataclass(frozen=True)
class Layout:
    """A memory layout of a network, and the reason for it."""

    name: LayoutName = "channels_last"
    reason: str | None = None
    """Reason for another layout than the first choice; None for the first choice."""
    checked: bool = False
    """True where a training step in it was compared with a reference on this kind of machine."""

    @property
    def channels_last(self) -> bool:
        """True where channels are last."""
        return self.name == "channels_last"

    @property
    def text(self) -> str:
        """Name of the layout for people."""
        return _TEXTS[self.name]

    @property
    def record(self) -> LayoutUsed:
        """Record of the layout for a checkpoint."""
        return LayoutUsed(name=self.name, reason=self.reason, checked=self.checked)

    def place(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        """Move a network to a device and lay its weights and buffers out, in place."""
        network.to(device)
        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dim() == 4:  # no other number of dimensions has channels to put last
                tensor.data = tensor.data.to(memory_format=memory)

    def inputs(self, inputs: Inputs) -> Inputs:
        """Lay out a network's inputs; tensors that are laid out so already are returned as such."""
        return each(inputs, self._laid_out)

    def _laid_out(self, images: Tensor) -> Tensor:
        if images.dim() != 4:
            return images
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        if suggest_memory_format(images) is torch.contiguous_format:
            return images.contiguous()
        # Of a single channel both layouts are "contiguous"; what kernels look at is its strides.
        return images.clone(memory_format=torch.contiguous_format)

    def running(self) -> AbstractContextManager[None]:
        """Context for everything that runs the network, its backward passes too."""
        return without_onednn() if self.name == "contiguous_without_onednn" else nullcontext()


_TEXTS: dict[LayoutName, str] = {
    "channels_last": "channels-last",
    "contiguous": "contiguous",
    "contiguous_without_onednn": "contiguous without oneDNN",
}
FIRST = Layout()
"""First choice, also for networks that only run forward."""


def choose(
    network: nn.Module,
    inputs: Inputs,
    spec: NumericSpec,
    *,
    architecture: str = "",
) -> Layout:
    """Choose the layout to train a freshly built network on inputs (B, ...) such as these.

    The network's weights must not be laid out channels-last yet. Networks of one `architecture`, if
    given, are examined once per process. A layout that the matrix asks for is taken even where it
    triggers the fault: the check of the arithmetic decides whether it works.
    """
    if spec.layout != "auto":
        return Layout(spec.layout)
    if spec.device != "cpu":
        return FIRST
    name = f"{architecture} {[tuple(part.shape[1:]) for part in parts(inputs)]}"
    if not architecture or name not in _chosen:
        _chosen[name] = _decided(network, inputs)
    return _chosen[name]


_chosen: dict[str, Layout] = {}


def safe(network: nn.Module, inputs: Inputs, spec: NumericSpec) -> Layout:
    """Choose a layout that never triggers the fault, for networks that run without a check."""
    chosen = choose(network, inputs, spec)
    return _decided(network, inputs) if chosen.channels_last else chosen


def frozen(spec: NumericSpec) -> Layout:
    """Choose the layout of a network that is never trained: forward passes avoid the fault."""
    return FIRST if spec.layout == "auto" else Layout(spec.layout)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Run convolutions within the context on torch's own kernels.

    NNPACK, which torch takes where oneDNN is off, is off too: it rounds ten times as much.
    """
    now = torch.backends.mkldnn
    settings = now.deterministic, now.allow_tf32, now.fp32_precision
    with now.flags(False, *settings), torch.backends.nnpack.flags(enabled=False):
        yield


# ---------------------------------------------------------------- detecting the fault


def _decided(network: nn.Module, inputs: Inputs) -> Layout:
    watch = _Watch()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # this pass may not reach it
            # Not `weight.shape`: reading a computed weight may move what it is computed from.
            inputs_of_group = module.in_channels // module.groups
            shape = torch.Size((module.out_channels, inputs_of_group, *module.kernel_size))
            watch.look(shape, module.stride, module.groups, transposed=False)
    with suppress(*OWN_ERRORS):  # an error of the network is reported where it is trained
        _traced(network, inputs, watch)
    if watch.met is None:
        return FIRST
    name: LayoutName = "contiguous_without_onednn" if watch.anyhow else "contiguous"
    return Layout(name, f"{watch.met} meets a fault of oneDNN channels-last")


def _traced(network: nn.Module, inputs: Inputs, watch: _Watch) -> None:
    """Run forward and backward passes in eval and train mode, and undo their effects."""
    inputs = Layout("contiguous").inputs(each(inputs, lambda part: part.detach()[:2]))
    try:
        probe, buffers = copy.deepcopy(network), None
    except Exception:  # a network may hold anything
        probe, buffers = network, [b.clone() for b in network.buffers()]
    mode = probe.training
    with torch.random.fork_rng(devices=[]), without_onednn(), torch.enable_grad(), watch:
        try:
            for training in (False, True):
                with suppress(*OWN_ERRORS):
                    probe.train(training)
                    outputs = [t for t in _tensors(_pass(probe, inputs)) if t.requires_grad]
                    parameters = [p for p in probe.parameters() if p.requires_grad]
                    total = torch.stack([t.float().sum() for t in outputs]).sum()
                    torch.autograd.grad(total, parameters, allow_unused=True)
        finally:
            probe.train(mode)
            for buffer, before in zip(network.buffers(), buffers or (), strict=False):
                buffer.data.copy_(before)


def _pass(network: nn.Module, inputs: Inputs) -> Any:
    if isinstance(network, Student):
        return network.forward_features(inputs, preacts=network.has_preacts)
    return network(inputs)


def _tensors(shown: Any) -> Iterator[Tensor]:
    if isinstance(shown, Tensor):
        yield shown
    elif isinstance(shown, (tuple, list)):
        for part in shown:
            yield from _tensors(part)
    elif hasattr(shown, "logits"):
        yield from _tensors(shown.logits)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every convolution that really runs, called as a function or by a module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met: str | None = None
        """Description of the first convolution that triggers the fault where channels are last."""
        self.anyhow = False
        """True where one does although neither weights nor inputs were laid out so."""

    def look(
        self, weight: torch.Size, stride: Any, groups: int, *, transposed: bool, last: bool = False
    ) -> bool:
        """Return True for a convolution with the fault; `last`: its channels are last already."""
        if transposed or groups != 1 or len(weight) != 4 or tuple(weight[2:]) != (1, 1):
            return False
        if max(stride) == 1 or weight[1] >= BLOCK:
            return False
        self.met = self.met or (
            f"a 1x1 convolution with stride {max(stride)} of {weight[1]} channels"
        )
        self.anyhow |= last
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _aten.convolution.default:
            images, weight, _, stride, _, _, transposed, _, groups = args
            self._see(images, weight, stride, transposed, groups)
        elif func is _aten.convolution_backward.default:
            _, images, weight, _, stride, _, _, transposed, _, groups, _ = args
            self._see(images, weight, stride, transposed, groups)
        return func(*args, **(kwargs or {}))

    def _see(self, images: Tensor, weight: Tensor, stride: Any, transposed: bool, n: int) -> bool:
        last = any(
            t.dim() == 4 and suggest_memory_format(t) is torch.channels_last
            for t in (images, weight)
        )
        return self.look(weight.shape, stride, n, transposed=transposed, last=last)


class Guard(_Watch):  # type: ignore[no-untyped-call]
    """Keeps everything inside, a method's own layers too, from the fault, and records it."""

    def __init__(self) -> None:
        super().__init__()
        self.hit = False
        """True where the fault would have been triggered."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not _aten.convolution_backward.default:
            return func(*args, **(kwargs or {}))
        _, images, weight, _, stride, _, _, transposed, _, groups, _ = args
        self.anyhow = False
        if not (self._see(images, weight, stride, transposed, groups) and self.anyhow):
            return func(*args, **(kwargs or {}))
        self.hit = True
        with without_onednn():
            return func(*args, **(kwargs or {}))
