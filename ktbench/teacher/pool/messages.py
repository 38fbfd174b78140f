"""What travels between trainings, the coordinator and workers: never an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.networks.instruction_set import kind
from ktbench.networks.layout import FIRST, Layout
from ktbench.records import DataSpec, KtbenchError, NumericSpec, Teacher, digest_of
from ktbench.students._contract import Features
from ktbench.system.installation import ROOT, VERSION
from ktbench.transfer_methods._contract import Needs

_COMPUTING = (
    "ktbench/data",
    "ktbench/teacher",
    "ktbench/networks/layout.py",
    "ktbench/networks/numeric.py",
    "ktbench/records",
    "ktbench/students",
    "ktbench/transfer_methods/_contract.py",
)


@cache
def code_digest() -> str:
    """16 digits over the source of everything that a teacher's outputs are computed with."""
    total = hashlib.sha256(VERSION.encode())
    for place in _COMPUTING:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            total.update(str(file.relative_to(ROOT)).encode())
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


@dataclass(frozen=True)
class Identity:
    """All that two processes must share for their outputs to be equal, bit for bit."""

    teacher: str
    """Digest of the weights."""
    data: str
    """Digest of the data set that the students learn from."""
    trained_on: str
    """Digest of the data set that the teacher learnt from: its normalisation."""
    code: str
    torch_version: str = field(default_factory=lambda: str(torch.__version__))
    machine: str = field(default_factory=kind)
    kernels: str = field(default_factory=torch.backends.cpu.get_cpu_capability)
    """The instruction set that torch's kernels use here."""

    def differs(self, other: Identity) -> str | None:
        """What makes `other` unfit to stand in for this one, or None."""
        for each in fields(self):
            ours, theirs = getattr(self, each.name), getattr(other, each.name)
            if ours != theirs:
                return f"another {each.name.replace('_', ' ')}: {theirs}, not {ours}"
        return None


@dataclass(frozen=True)
class PoolJob:
    """What the workers of one pool compute: a teacher's outputs on one data set's batches."""

    teacher: Teacher
    data: DataSpec
    numeric: NumericSpec
    """The students': a live teacher runs with theirs too. Outputs are reduced by the training."""
    base: str
    """Folder that relative paths start from, on machines that have no other."""
    identity: Identity
    layout: Layout | None = None
    """That in which the teacher was trained; None where it was never another than the first."""

    @property
    def threads(self) -> int:
        """Of a worker: as many as a live teacher has."""
        return self.numeric.threads

    @property
    def name(self) -> str:
        """16 digits: equal for all trainings that the same workers can serve."""
        asked = [self.teacher.canonical, self.data.canonical, self.numeric.canonical]
        if self.layout is not None and self.layout != FIRST:
            asked.append(self.layout.name)
        return digest_of([asked, vars(self.identity)])


@dataclass(frozen=True)
class StreamKey:
    """Which stream a training's batches come from; the data set is the pool's."""

    seed: int
    batch_size: int
    views: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One batch to answer.

    Usually `step` alone says which: the worker rebuilds order and images from the stream. `rows`
    names samples outside that order; `plain` takes them as they are, without augmentation.
    """

    number: int
    """Rises with each that a training asks for."""
    step: int
    needs: int
    """The bits of `Needs`, in the order of its fields."""
    rows: bytes = b""
    """int32 positions in the training set."""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the coordinator hears of an answer; the answer itself goes to the training."""

    seconds: float = 0.0
    """That the worker worked."""
    failed: str = ""
    """Why there is no answer."""


@dataclass(frozen=True)
class Hello:
    """Who a worker is."""

    identity: Identity | None
    """None: it could not get ready."""
    node: str
    process: int
    stage_names: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Packed:
    """An answer: bytes and layouts that give back the very tensors, strides included."""

    parts: dict[str, tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]]
    """By name (`logits`, `embedding`, `stem`, `stages0`, `preacts0`...): values in the order of
    memory, shape, strides."""
    flops: int
    seconds: float
    """Of the forward pass."""

    @property
    def nbytes(self) -> int:
        """Of the values."""
        return sum(values.nbytes for values, _, _ in self.parts.values())


_LISTS = ("stages", "preacts")


def needs_bits(needs: Needs) -> int:
    """`Needs` as a number."""
    return sum(getattr(needs, each.name) << i for i, each in enumerate(fields(Needs)))


def needs_of(bits: int) -> Needs:
    """The `Needs` of a number."""
    return Needs(**{each.name: bool(bits >> i & 1) for i, each in enumerate(fields(Needs))})


def pack(features: Features, needs: Needs, *, flops: int, seconds: float) -> Packed:
    """The logits and what else is needed of a pass, where the network shows it."""
    parts = {"logits": _values(features.logits)}
    for name in ("embedding", "stem"):
        value = getattr(features, name)
        if getattr(needs, name) and value is not None:
            parts[name] = _values(value)
    for name in _LISTS:
        if getattr(needs, name):
            for i, value in enumerate(getattr(features, name)):
                parts[f"{name}{i}"] = _values(value)
    return Packed(parts, flops, seconds)


def unpack(packed: Packed, device: torch.device) -> Features:
    """The tensors as they left the network, on the training's device.

    Raises KtbenchError when the message does not hold what it says.
    """
    found: dict[str, Any] = {}
    lists: dict[str, list[Tensor]] = {name: [] for name in _LISTS}
    for name, part in packed.parts.items():
        value = _tensor(name, *part).to(device)
        owner = next((each for each in _LISTS if name.startswith(each)), None)
        if owner is None:
            found[name] = value
        else:
            lists[owner].append(value)
    found |= {name: tuple(values) for name, values in lists.items()}
    return Features(**found)


def _values(value: Tensor) -> tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]:
    """Values in the order of memory, so that no copy is needed where the layout is dense."""
    value = value.detach().cpu()
    order = sorted(range(value.dim()), key=lambda d: (-value.stride()[d], d))
    if not value.permute(order).is_contiguous():
        value = value.contiguous()
        order = list(range(value.dim()))
    flat = value.permute(order).reshape(-1).numpy()
    return flat, tuple(value.shape), tuple(value.stride())


def _tensor(
    name: str, values: NDArray[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    size = int(np.prod(shape)) if shape else 1
    reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if values.dtype != np.float32 or values.ndim != 1 or values.size != size or reach > size:
        raise KtbenchError(f"{name}: {values.dtype} {values.shape} for a tensor of {shape}")
    # A copy: what lies in the object store cannot be written, and is let go sooner.
    return torch.from_numpy(values.copy()).as_strided(shape, strides)
