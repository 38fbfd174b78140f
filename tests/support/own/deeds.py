"""A user's network and method that do what a test names, where and when it says."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.data import Stream
from ktbench.records import StorageError
from ktbench.transfer_methods._contract import Batch, Needs, Phase, Setting, TransferMethod

KEPT: list[Any] = []
SAFE_CROSS_ENTROPY = functional.cross_entropy


class UnprintableError(Exception):
    """An error that fails when it is printed."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Own(BaseException):
    """An exception that no handler expects."""


def _raise(error: BaseException) -> None:
    raise error


def _deep(count: int = 0) -> int:
    return _deep(count + 1) + 1


FAULTS: dict[str, Callable[[], object]] = {
    "exit": lambda: sys.exit(0),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator": lambda: _raise(GeneratorExit()),
    "cancelled": lambda: _raise(asyncio.CancelledError()),
    "own kind": lambda: _raise(Own("of its own")),
    "unprintable": lambda: _raise(UnprintableError()),
    "surrogate": lambda: _raise(ValueError("a \udc80 b \x1b[2J \x00 \u202e c\n\nd")),
    "megabytes": lambda: _raise(ValueError("no " * 1_000_000)),
    "group": lambda: _raise(ExceptionGroup("several", [ValueError("one"), TypeError("two")])),
    "recursion": lambda: _deep(),
    "memory": lambda: _raise(MemoryError()),
    "stop": lambda: _raise(StopIteration("x")),
    "missing file": lambda: Path("/nowhere/at/all").read_text(),
    "storage": lambda: _raise(StorageError("no space")),
}


def _keep(thing: Any) -> None:
    thing.__enter__()
    KEPT.append(thing)


SETTINGS: dict[str, Callable[[], object]] = {
    "threads": lambda: torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "device mode": lambda: _keep(torch.device("meta")),
    "grad": lambda: torch.set_grad_enabled(False),
    "inference": lambda: _keep(torch.inference_mode()),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "nondeterministic": lambda: torch.use_deterministic_algorithms(False),
    "fill": lambda: setattr(torch.utils.deterministic, "fill_uninitialized_memory", True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "mkldnn": lambda: torch._C._set_mkldnn_enabled(False),
    "autocast": lambda: _keep(torch.autocast("cpu", torch.bfloat16)),
    "denormals": lambda: torch.set_flush_denormal(True),
    "module hooks": lambda: nn.modules.module.register_module_forward_hook(
        lambda module, given, output: output * 0 if isinstance(output, Tensor) else output
    ),
    "saved hooks": lambda: _keep(torch.autograd.graph.saved_tensors_hooks(torch.zeros_like, _same)),
    "chdir": lambda: os.chdir("/"),
    "environ": lambda: os.environ.update(KTBENCH_CHECKPOINT_SECONDS="nonsense"),
    "path": lambda: sys.path.clear(),
    "warnings": lambda: warnings.simplefilter("error"),
    "stdout": lambda: setattr(sys, "stdout", None),
    "recursion limit": lambda: sys.setrecursionlimit(5000),
    "gc": gc.disable,
    "trace": lambda: sys.settrace(lambda *_: None),
    "umask": lambda: os.umask(0o777),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 3600),
    "seterr": lambda: np.seterr(all="raise"),
    "seeds": lambda: (torch.manual_seed(0), random.seed(0), np.random.seed(0)),
    "reseeds": lambda: (torch.rand(3), random.random(), np.random.rand()),
}


def _same(value: Tensor) -> Tensor:
    return value


def _zeros(*arguments: Any, **more: Any) -> Tensor:
    return SAFE_CROSS_ENTROPY(*arguments, **more) * 0.0


def _code() -> None:
    def relu(input: Tensor, inplace: bool = False) -> Tensor:
        return input * 2

    functional.relu.__code__ = relu.__code__


def _hide() -> None:
    nn.ReLU.__call__ = lambda self, given: given * 3  # type: ignore[method-assign]


def _optimise() -> None:
    import ktbench.train.phases as phases

    phases.make_optimiser = None  # type: ignore[assignment]


REPLACED: dict[str, Callable[[], object]] = {
    "cross entropy": lambda: setattr(functional, "cross_entropy", _zeros),
    "kl_div": lambda: setattr(functional, "kl_div", None),
    "relu of modules": lambda: setattr(nn.ReLU, "forward", lambda self, given: given),
    "tensor method": lambda: setattr(Tensor, "backward", None),
    "autograd": lambda: setattr(torch.autograd, "grad", lambda *_, **__: []),
    "torch": lambda: delattr(torch, "stack"),
    "code": _code,
    "hidden": _hide,
    "ours": _optimise,
}


class Net(nn.Module):
    """A small network with deeds in its constructor or its passes; `first` may work in place."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        where: str = "",
        deed: str = "",
        first: str = "",
        draws: bool = False,
    ) -> None:
        super().__init__()
        self.where, self.deed, self.draws, self.calls = where, deed, draws, 0
        self.first = first
        self.act = nn.ReLU(inplace=first == "relu")
        self.conv = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, num_classes)
        if where == "build":
            self.act_up()

    def act_up(self) -> None:
        """Do what the deed names."""
        (FAULTS | SETTINGS | REPLACED)[self.deed]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        self.calls += 1
        train = self.training
        if self.first == "relu":
            x = self.act(x)
        elif self.first == "mul" and train:
            x.mul_(2)
        elif self.first == "data":
            x.data.mul_(2)
        elif self.first == "numpy":
            x.detach().numpy()[:] *= 2
        done = functional.relu(self.norm(self.conv(x)))
        if (
            (self.where == "forward" and train and self.calls > 2)
            or (self.where == "validation" and not train and self.calls > 3)
            or (self.where == "any pass")
        ):
            self.act_up()
        if self.where == "backward" and done.requires_grad:
            done.register_hook(lambda gradient: self.act_up())
        if self.draws:
            done = done * (random.random() + float(np.random.rand()) + float(torch.rand(())))
        return self.head(done.mean((2, 3)))

    def state_dict(self, *arguments: Any, **more: Any) -> Any:
        """As a module's, with a deed before it."""
        if self.where == "state" and self.calls:
            self.act_up()
        return super().state_dict(*arguments, **more)


@dataclass(frozen=True)
class Config:
    """The deed, where it is done, and from which step on."""

    deed: str = ""
    where: str = "loss"
    step: int = 1


class Method(TransferMethod):
    """A method that learns from labels and logits, and does its deed."""

    Config = Config

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__(config, setting)
        self._may("init", config)

    @classmethod
    def _may(cls, where: str, config: Config) -> None:
        if config.where == where:
            (FAULTS | SETTINGS | REPLACED)[config.deed]()

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Logits and stages."""
        cls._may("needs", config)
        return Needs(logits=True, stages=True)

    @classmethod
    def incompatible(cls, config: Config, setting: Setting) -> str | None:
        """Never."""
        cls._may("incompatible", config)
        return None

    def phases(self) -> Sequence[Phase]:
        """One."""
        self._may("phases", self.config)
        return None if self.config.where == "no phases" else super().phases()  # type: ignore[return-value]

    def loss(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        """See `Net`."""
        if batch.step >= self.config.step:
            if self.config.where == "loss":
                (FAULTS | SETTINGS | REPLACED)[self.config.deed]()
            if self.config.where == "writes":
                WRITES[self.config.deed](student, teacher, batch)
        ce = SAFE_CROSS_ENTROPY(student.logits, batch.labels)
        near = (student.logits - teacher.logits.clone()).square().mean()
        return {"ce": ce, "near": near}


def _later(student: Any, teacher: Any, batch: Batch) -> None:
    def write(gradient: Tensor) -> None:
        with torch.no_grad():
            teacher.logits.zero_()

    student.logits.register_hook(write)


def _one(student: Any, teacher: Any, batch: Batch) -> None:
    """Change one value that a sample of a few is unlikely to include."""
    numbers = teacher.stages[0].detach().numpy()
    numbers[3, 1, 2, 5] += 100.0


def _address(student: Any, teacher: Any, batch: Batch) -> None:
    ctypes.memset(teacher.logits.data_ptr(), 0, teacher.logits.nbytes)


def _data(student: Any, teacher: Any, batch: Batch) -> None:
    """Zero all images that the training reads."""
    for thing in gc.get_objects():
        if type(thing) is Stream:
            splits = thing.dataset.splits.values()
            for tensor in (*thing.kept, *(each for pair in splits for each in pair)):
                tensor.data.zero_()


def _weights(student: Any, teacher: Any, batch: Batch) -> None:
    """Halve the weights of all other small networks."""
    with torch.no_grad():
        for thing in gc.get_objects():
            if type(thing) is nn.Parameter and thing.shape == (10, 32):
                thing.mul_(0.5)


WRITES: dict[str, Callable[[Any, Any, Batch], object]] = {
    "logits": lambda s, t, b: t.logits.zero_(),
    "a view": lambda s, t, b: t.stages[0][0].mul_(2),
    "data": lambda s, t, b: t.logits.data.zero_(),
    "numpy": lambda s, t, b: t.stages[-1].numpy().fill(0),
    "address": _address,
    "backward": _later,
    "one value": _one,
    "storage": lambda s, t, b: t.logits.untyped_storage().fill_(0),
    "set": lambda s, t, b: t.logits.set_(torch.zeros(1)),
    "resize": lambda s, t, b: t.logits.resize_(2),
    "swap": lambda s, t, b: setattr(t.logits, "data", torch.zeros(32, 10)),
    "requires grad": lambda s, t, b: t.logits.requires_grad_(True),
    "labels": lambda s, t, b: b.labels.add_(1).remainder_(10),
    "labels in numpy": lambda s, t, b: b.labels.numpy().fill(3),
    "indices": lambda s, t, b: b.indices.zero_(),
    "inputs": lambda s, t, b: b.inputs.zero_(),
    "images": _data,
    "weights": _weights,
}
NETWORK: list[nn.Module] = []


def one_network(num_classes: int, in_channels: int) -> nn.Module:
    """Return the same module whenever it is called."""
    if not NETWORK:
        NETWORK.append(Net(num_classes, in_channels))
    return NETWORK[0]
