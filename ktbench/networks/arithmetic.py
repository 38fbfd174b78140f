"""Whether a network's training step is computed rightly here: checked before it is trusted.

Native kernels differ from processor to processor, and have faults. One step is taken as a training
would take it, and every operation of it that such a kernel computes is done again, on the very
same operands, in double precision by torch's own plain kernels. So neither what a network draws
(dropout), nor a ReLU at whose edge rounding decides, nor an ill-conditioned network is mistaken for
a fault: only what an operation itself adds is judged.

What may differ. Sums of products in single precision, in whatever order, are off by some roundings
of the sum of the absolute values, which is worked out in double precision as well. `_SUMS` of them
are allowed, and some of the result, which bf16 needs: right kernels took a third of it at most in
900 random networks. Of normalisation and pooling a thousandth is allowed, and `_REFERENCE` times
what the plain kernel is off by in the operation's own precision. A fault is off by as much as the
result is large.

Then the step is taken twice more with nothing in between: both must give the same bits, and what
the first gave. A kernel that writes where it should not shows there, or ends the process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ktbench.networks.layout import Guard, Layout, choose, without_onednn
from ktbench.networks.numeric import Runner, prepare
from ktbench.records import OWN_ERRORS, ArithmeticVerdict, NumericSpec, one_line
from ktbench.students._contract import Student
from ktbench.transfer_methods._contract import Needs

_SUMS, _REFERENCE, _RESULT, _OTHERWISE = 64, 8, 8, 1e-3
_EPSILON = torch.finfo(torch.float32).eps
_STEPS_APART = {"fp32": 0.05, "bf16": 0.5}
"""Of a gradient's norm: between a step that is watched or compiled and one that is not, which round
differently on their way. Each operation has been judged by then."""
_aten = torch.ops.aten
_SUMMING = {
    *(_aten.convolution, _aten.convolution_backward),
    *(_aten.addmm, _aten.mm, _aten.bmm, _aten.baddbmm),
    *(_aten.avg_pool2d, _aten.avg_pool2d_backward),
    *(_aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool2d_backward),
}
"""Linear in each operand: of absolute values they give the bound of their rounding."""
_OTHERS = {
    *(_aten.native_batch_norm, _aten.native_batch_norm_backward),
    *(_aten.native_group_norm, _aten.native_group_norm_backward),
    *(_aten.native_layer_norm, _aten.native_layer_norm_backward),
    *(_aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward),
}


@dataclass(frozen=True)
class Step:
    """A training step to take: the network's build, a batch, and the settings."""

    build: Callable[[], Student]
    inputs: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,) int64."""
    numeric: NumericSpec


def check(step: Step, layout: Layout | None = None) -> ArithmeticVerdict:
    """Judge a step in a layout; None is the one that the network's own layers decide on.

    What the network raises is no fault of the arithmetic: then nothing is said (`right` is None).
    """
    prepare(step.numeric)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]), _others_draws():
        torch.manual_seed(0)
        used = layout or Layout()
        verdict: dict[str, Any] = {"right": None}
        try:
            network = step.build()
            used = layout or choose(network, step.inputs, step.numeric)
            verdict = _judged(step, network, used)
        except OWN_ERRORS as error:  # a user's own network may raise anything
            verdict["reason"] = one_line(error)
    return ArithmeticVerdict(
        layout=used.name,
        layout_reason=used.reason,
        images=len(step.labels),
        seconds=time.perf_counter() - began,
        **verdict,
    )


def _judged(step: Step, network: Student, layout: Layout) -> dict[str, Any]:
    taken = _Taken(step, network, layout)
    judge = _Judge()
    guard = Guard()
    with ExitStack() as watching:
        watching.enter_context(guard)
        watching.enter_context(judge)
        first = taken.gradients()
    told = {"worst": judge.worst, "operations": judge.operations}
    if judge.wrong:
        return told | {"right": False, "reason": judge.wrong}
    if not all(bool(t.isfinite().all()) for t in first):
        return told | {"reason": "its loss or gradients are not finite", "right": None}
    taken.guarded = guard.hit
    again = [taken.gradients() for _ in range(2)]
    if any(not torch.equal(a, b) for a, b in zip(*again, strict=True)):
        if taken.repeats_itself():
            reason = "the same step gave other gradients when it was taken again"
            return told | {"right": False, "reason": reason}
    elif _apart(again[0], first) > _STEPS_APART[step.numeric.precision]:
        reason = "the step gave other gradients when no operation of it was watched"
        return told | {"right": False, "reason": reason}
    if step.numeric.compile:
        compiled = taken.gradients(eager=False)
        # A compiled network draws other numbers than a plain one.
        apart = 0.0 if judge.draws else _apart(compiled, first)
        if not apart <= _STEPS_APART[step.numeric.precision]:
            return told | {"right": False, "reason": "compiled, it gave other gradients"}
    return told | {"right": True}


class _Taken:
    """The same step of one network, as often as it is asked for."""

    def __init__(self, step: Step, network: Student, layout: Layout) -> None:
        self.guarded = False
        self._step, self._network, self._layout = step, network, layout
        layout.place(network, step.numeric.device)
        network.train()
        self._run = Runner(network, step.numeric, layout=layout, architecture="checked")
        self._inputs = layout.inputs(step.inputs)
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    def gradients(self, *, eager: bool = True) -> list[Tensor]:
        """Loss and gradients, in the order of the parameters that have any."""
        for buffer, before in zip(self._network.buffers(), self._buffers, strict=True):
            buffer.data.copy_(before)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        parameters = [p for p in self._network.parameters() if p.requires_grad]
        shown = self._run(self._inputs, Needs(logits=True), eager=eager)
        loss = functional.cross_entropy(shown.logits, self._step.labels)
        with without_onednn() if self.guarded else self._layout.running():
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss.detach(), *(g for g in found if g is not None)]

    def repeats_itself(self) -> bool:
        """Whether the network's step is the same each time, by torch's plain kernels."""
        self._run.layout = self._layout = Layout("contiguous_without_onednn")
        self._inputs = self._layout.inputs(self._inputs)
        self._layout.place(self._network, self._step.numeric.device)
        once, twice = self.gradients(), self.gradients()
        return all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def _apart(given: list[Tensor], wanted: list[Tensor]) -> float:
    """The distance of two steps, relative to the norm of one."""
    if len(given) != len(wanted):
        return float("inf")
    off = sum(float((a - b).double().square().sum()) for a, b in zip(given, wanted, strict=True))
    size = sum(float(b.double().square().sum()) for b in wanted)
    return float((off / max(size, 1e-30)) ** 0.5)


class _others_draws:  # noqa: N801 - used as a context
    """Leaves the generators of Python and numpy as they were."""

    def __enter__(self) -> None:
        self._states = random.getstate(), np.random.get_state()

    def __exit__(self, *_: object) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])


# ---------------------------------------------------------------- one operation


class _Judge(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does every operation of a native kernel again, and keeps the first that is wrong."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wrong = ""
        self.worst = 0.0
        self.operations = 0
        self.draws = False
        """Whether the network draws numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        kind = func.overloadpacket
        if kind not in _SUMMING and kind not in _OTHERS:
            return func(*args, **(kwargs or {}))
        bounds = _bounds(func, args, kwargs or {}, summing=kind in _SUMMING)
        given = func(*args, **(kwargs or {}))
        for number, (tensor, bound) in enumerate(zip(_several(given), bounds, strict=False)):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and bound is not None:
                self.operations += 1
                ratio = bound.ratio(tensor)
                self.worst = max(self.worst, min(ratio, 1e18))
                if ratio > 1 and not self.wrong:
                    self.wrong = _said(func, args, number)
        return given


@dataclass(frozen=True)
class _Bound:
    """What an operation should give, and by how much it may be off."""

    exact: Tensor
    rounding: float
    """What rounding on the way explains; that of the result itself comes on top."""

    def ratio(self, given: Tensor) -> float:
        """The largest difference over what is allowed; infinite where it is not a number."""
        if given.shape != self.exact.shape:
            return float("inf")
        counted = self.exact.isfinite()
        if not bool(counted.any()):
            return 0.0
        off = (given.double() - self.exact)[counted].abs().max()
        result = float(self.exact[counted].abs().max())
        allowed = self.rounding + _RESULT * torch.finfo(given.dtype).eps * result
        return float(off / max(allowed, 1e-30)) if bool(off.isfinite()) else float("inf")


def _bounds(func: Any, args: Any, kwargs: Any, *, summing: bool) -> list[_Bound | None]:
    """Of each output of an operation; none where the reference cannot do it."""
    with without_onednn():
        try:
            exact = _several(func(*_mapped(args, _double), **kwargs))
            other = _several(func(*_mapped(args, _size if summing else _plain), **kwargs))
        except Exception:  # a kernel that knows no double precision
            return []
    found: list[_Bound | None] = []
    for best, beside in zip(exact, other, strict=True):
        if not isinstance(best, Tensor) or not best.is_floating_point() or not best.numel():
            found.append(None)
        elif summing:
            found.append(_Bound(best, _SUMS * _EPSILON * _largest(beside)))
        else:
            size = _largest(best)
            reference = _largest((beside.double() - best)[best.isfinite()])
            # Bounded: a fault that the plain kernel has too must not excuse itself.
            found.append(_Bound(best, _OTHERWISE * size + min(_REFERENCE * reference, size / 10)))
    return found


def _largest(values: Tensor) -> float:
    values = values[values.isfinite()].abs()
    return float(values.max()) if values.numel() else 0.0


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value.contiguous()
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, change) for part in value)
    return value


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64, memory_format=torch.contiguous_format)


def _size(tensor: Tensor) -> Tensor:
    return _double(tensor).abs()


def _said(func: Any, args: Any, number: int) -> str:
    """The operation for people: what it is, and the shapes that it is of."""
    name = str(func.overloadpacket).rpartition(".")[2]
    if func.overloadpacket is _aten.convolution_backward:
        _, images, weight, _, stride, *_ = args
        part = ("input", "weight", "bias")[number]
        kernel = "x".join(map(str, weight.shape[2:]))
        return (
            f"wrong gradient of the {part} of a {kernel} convolution with stride {max(stride)}, "
            f"{images.shape[1]} to {weight.shape[0]} channels"
        )
    shapes = ", ".join("x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor))
    return f"wrong result of {name} ({shapes})"
