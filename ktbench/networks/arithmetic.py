"""Check that this machine computes a network's training step correctly.

Native kernels differ from processor to processor, and have faults. One step is taken as a training
would take it, and every operation in it that such a kernel computes is repeated on the very same
operands, in double precision by torch's own plain kernels. Only the error of each operation itself
is judged, so neither random draws (dropout), nor a ReLU at whose edge rounding decides, nor an
ill-conditioned network is mistaken for a fault.

Tolerance. Sums of products in single precision, in whatever order, are off by some roundings of the
sum of the absolute values, which is computed in double precision as well. `_SUMS` of them are
allowed, plus some of the result, which bf16 needs: correct kernels took a third of it at most in
900 random networks. Normalisation and pooling may be off by a thousandth, plus `_REFERENCE` times
the plain kernel's error in the operation's own precision, plus `_OPERANDS` times what a rounding of
the operands changes: a sum that all but cancels, such as the mean of a centred channel or a
gradient between two BatchNorms, is known no better. A fault is off by as much as the result.

Then the step is taken twice more without watching: both must give the same bits, close to those of
the first. A kernel that writes out of bounds shows there, or ends the process.
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
from ktbench.students._contract import Inputs, Student, parts
from ktbench.transfer_methods._contract import Needs

_SUMS, _REFERENCE, _OPERANDS, _RESULT, _OTHERWISE = 64, 8, 64, 8, 1e-3
_EPSILON = torch.finfo(torch.float32).eps
_STEPS_APART = {"fp32": 0.05, "bf16": 0.5}
"""Largest distance, relative to the gradient's norm, between a step that is watched or compiled and
one that is not, as their roundings differ. Each operation has been judged by then."""
_aten = torch.ops.aten
_SUMMING = {
    *(_aten.convolution, _aten.convolution_backward),
    *(_aten.addmm, _aten.mm, _aten.bmm, _aten.baddbmm),
    *(_aten.avg_pool2d, _aten.avg_pool2d_backward),
    *(_aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool2d_backward),
}
"""Operations linear in each operand: on absolute values they bound their own rounding."""
_OTHERS = {
    *(_aten.native_batch_norm, _aten.native_batch_norm_backward),
    *(_aten.native_group_norm, _aten.native_group_norm_backward),
    *(_aten.native_layer_norm, _aten.native_layer_norm_backward),
    *(_aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward),
}


@dataclass(frozen=True)
class Step:
    """A training step: how to build the network, a batch, and the settings."""

    build: Callable[[], Student]
    inputs: Inputs
    """Inputs (B, ...) of the network."""
    labels: Tensor
    """Labels, one per prediction."""
    numeric: NumericSpec
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    """The task's loss of outputs and labels."""


def check(step: Step, layout: Layout | None = None) -> ArithmeticVerdict:
    """Judge a step in a layout; None takes the layout that `choose` gives.

    An error of the network is no fault of the arithmetic: then there is no verdict (`right` is
    None).
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
        images=len(parts(step.inputs)[0]),
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
    checked = {"worst": judge.worst, "operations": judge.operations}
    if judge.wrong:
        return checked | {"right": False, "reason": judge.wrong}
    if not all(bool(t.isfinite().all()) for t in first):
        return checked | {"reason": "its loss or gradients are not finite", "right": None}
    taken.guarded = guard.hit
    again = [taken.gradients() for _ in range(2)]
    if any(not torch.equal(a, b) for a, b in zip(*again, strict=True)):
        if taken.repeats_itself():
            reason = "the same step gave other gradients when it was taken again"
            return checked | {"right": False, "reason": reason}
    elif _apart(again[0], first) > _STEPS_APART[step.numeric.precision]:
        reason = "the step gave other gradients when no operation of it was watched"
        return checked | {"right": False, "reason": reason}
    if step.numeric.compile:
        compiled = taken.gradients(eager=False)
        # A compiled network draws other numbers than a plain one.
        apart = 0.0 if judge.draws else _apart(compiled, first)
        if not apart <= _STEPS_APART[step.numeric.precision]:
            return checked | {"right": False, "reason": "compiled, it gave other gradients"}
    return checked | {"right": True}


class _Taken:
    """The same step of one network, repeatable."""

    def __init__(self, step: Step, network: Student, layout: Layout) -> None:
        self.guarded = False
        self._step, self._network, self._layout = step, network, layout
        layout.place(network, step.numeric.device)
        network.train()
        self._run = Runner(network, step.numeric, layout=layout, architecture="checked")
        self._inputs = layout.inputs(step.inputs)
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    def gradients(self, *, eager: bool = True) -> list[Tensor]:
        """Take the step, and return its loss and gradients in the order of the parameters."""
        for buffer, before in zip(self._network.buffers(), self._buffers, strict=True):
            buffer.data.copy_(before)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        parameters = [p for p in self._network.parameters() if p.requires_grad]
        shown = self._run(self._inputs, Needs(logits=True), eager=eager)
        loss = self._step.loss(shown.logits, self._step.labels)
        with without_onednn() if self.guarded else self._layout.running():
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss.detach(), *(g for g in gradients if g is not None)]

    def repeats_itself(self) -> bool:
        """Return True where torch's plain kernels give the same step each time."""
        self._run.layout = self._layout = Layout("contiguous_without_onednn")
        self._inputs = self._layout.inputs(self._inputs)
        self._layout.place(self._network, self._step.numeric.device)
        once, twice = self.gradients(), self.gradients()
        return all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def _apart(gradients: list[Tensor], reference: list[Tensor]) -> float:
    """Distance of two steps, relative to the norm of the reference."""
    if len(gradients) != len(reference):
        return float("inf")
    pairs = zip(gradients, reference, strict=True)
    off = sum(float((a - b).double().square().sum()) for a, b in pairs)
    size = sum(float(b.double().square().sum()) for b in reference)
    return float((off / max(size, 1e-30)) ** 0.5)


class _others_draws:  # noqa: N801 - used as a context
    """Restores the generators of Python and numpy on leaving."""

    def __enter__(self) -> None:
        self._states = random.getstate(), np.random.get_state()

    def __exit__(self, *_: object) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])


# ---------------------------------------------------------------- one operation


class _Judge(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Repeats every operation of a native kernel, and keeps the first that is wrong."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wrong = ""
        self.worst = 0.0
        self.operations = 0
        self.draws = False
        """True where the network draws random numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        kind = func.overloadpacket
        if kind not in _SUMMING and kind not in _OTHERS:
            return func(*args, **(kwargs or {}))
        bounds = _bounds(func, args, kwargs or {}, summing=kind in _SUMMING)
        outputs = func(*args, **(kwargs or {}))
        for number, (tensor, bound) in enumerate(zip(_several(outputs), bounds, strict=False)):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and bound is not None:
                self.operations += 1
                ratio = bound.ratio(tensor)
                self.worst = max(self.worst, min(ratio, 1e18))
                if ratio > 1 and not self.wrong:
                    self.wrong = _described(func, args, number)
        return outputs


@dataclass(frozen=True)
class _Bound:
    """Exact output of an operation, and the error allowed."""

    exact: Tensor
    rounding: float
    """Error that rounding within the operation explains; that of the result comes on top."""

    def ratio(self, output: Tensor) -> float:
        """Largest difference relative to the allowed one; infinite where it is not a number."""
        if output.shape != self.exact.shape:
            return float("inf")
        counted = self.exact.isfinite()
        if not bool(counted.any()):
            return 0.0
        off = (output.double() - self.exact)[counted].abs().max()
        result = float(self.exact[counted].abs().max())
        allowed = self.rounding + _RESULT * torch.finfo(output.dtype).eps * result
        return float(off / max(allowed, 1e-30)) if bool(off.isfinite()) else float("inf")


def _bounds(func: Any, args: Any, kwargs: Any, *, summing: bool) -> list[_Bound | None]:
    """Bound each output of an operation; empty where the reference fails."""
    with without_onednn():
        try:
            exact = _several(func(*_mapped(args, _double), **kwargs))
            other = _several(func(*_mapped(args, _size if summing else _plain), **kwargs))
            moves = () if summing else (_rounded_at_random(), _rounded_up)
            moved = [_several(func(*_mapped(args, move), **kwargs)) for move in moves]
        except Exception:  # a kernel that knows no double precision
            return []
    bounds: list[_Bound | None] = []
    for number, (best, beside) in enumerate(zip(exact, other, strict=True)):
        if not isinstance(best, Tensor) or not best.is_floating_point() or not best.numel():
            bounds.append(None)
        elif summing:
            bounds.append(_Bound(best, _SUMS * _EPSILON * _largest(beside)))
        else:
            size = _largest(best)
            reference = _largest((beside.double() - best)[best.isfinite()])
            # Bounded: a fault that the plain kernel has too must not excuse itself.
            rounding = _OTHERWISE * size + min(_REFERENCE * reference, size / 10)
            change = max(_largest((near[number] - best)[best.isfinite()]) for near in moved)
            bounds.append(_Bound(best, rounding + _OPERANDS * change))
    return bounds


def _largest(values: Tensor) -> float:
    values = values[values.isfinite()].abs()
    return float(values.max()) if values.numel() else 0.0


def _several(outputs: Any) -> tuple[Any, ...]:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


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


def _rounded_up(tensor: Tensor) -> Tensor:
    """Return every value a rounding higher, in double precision: no sum of them cancels that."""
    return _double(tensor) + _EPSILON * _size(tensor)


def _rounded_at_random() -> Callable[[Tensor], Tensor]:
    """Return what moves every value by a rounding up or down, in double precision."""
    generator = torch.Generator().manual_seed(0)

    def move(tensor: Tensor) -> Tensor:
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device) * 2 - 1
        return _double(tensor) + _EPSILON * signs * _size(tensor)

    return move


def _described(func: Any, args: Any, number: int) -> str:
    """Describe an operation for people: its name and shapes."""
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
