"""Messages between trainings, the coordinator and workers; none carries an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktbench.data.mixing import UNMIXED, Mixing
from ktbench.networks.instruction_set import kind
from ktbench.networks.layout import FIRST, Layout
from ktbench.records import DataSpec, KtbenchError, NumericSpec, Teacher, digest_of
from ktbench.students._contract import Features
from ktbench.system.installation import ROOT, VERSION
from ktbench.teacher.cache.feature_layout import MASK, features_of, parts_of
from ktbench.transfer_methods._contract import Needs

_COMPUTING = (
    "ktbench/data",
    "ktbench/teacher",
    "ktbench/networks/layout.py",
    "ktbench/networks/numeric.py",
    "ktbench/records",
    "ktbench/students",
    "ktbench/tasks",
    "ktbench/transfer_methods/_contract.py",
)


@cache
def code_digest() -> str:
    """Return 16 digits over the source of everything that computes a teacher's outputs."""
    digest = hashlib.sha256(VERSION.encode())
    for place in _COMPUTING:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Identity:
    """Everything that two processes must share for their outputs to be equal, bit for bit."""

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
        """Return what makes `other` unfit to stand in for this one, or None."""
        for each in fields(self):
            value, expected = getattr(other, each.name), getattr(self, each.name)
            if value != expected:
                return f"another {each.name.replace('_', ' ')}: {value}, not {expected}"
        return None


@dataclass(frozen=True)
class PoolJob:
    """The work of one pool: a teacher's outputs on one data set's batches."""

    teacher: Teacher
    data: DataSpec
    numeric: NumericSpec
    """Settings of the students, which a live teacher runs with too."""
    base: str
    """Folder that relative paths start from, on machines that have no other."""
    identity: Identity
    layout: Layout | None = None
    """Layout in which the teacher was trained; None where that was always the first choice."""

    @property
    def threads(self) -> int:
        """Threads of a worker: as many as a live teacher has."""
        return self.numeric.threads

    @property
    def name(self) -> str:
        """16 digits, equal for all trainings that the same workers can serve."""
        settings = [self.teacher.canonical, self.data.canonical, self.numeric.canonical]
        if self.layout is not None and self.layout != FIRST:
            settings.append(self.layout.name)
        return digest_of([settings, vars(self.identity)])


@dataclass(frozen=True)
class StreamKey:
    """Names the stream of a training's batches; the data set is the pool's."""

    seed: int
    batch_size: int
    views: int | None = None
    mixing: Mixing = UNMIXED


@dataclass(frozen=True, slots=True)
class Request:
    """A request for the teacher's outputs on one batch.

    Usually `step` alone says which: the worker rebuilds order and images from the stream. `rows`
    names samples outside that order; `plain` takes them as they are, without augmentation.
    """

    number: int
    """Rises with each request of a training."""
    step: int
    needs: int
    """The bits of `Needs`, in the order of its fields."""
    rows: bytes = b""
    """int32 positions in the training set."""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The coordinator's part of an answer; the answer itself goes to the training."""

    seconds: float = 0.0
    """Time that the worker took."""
    failed: str = ""
    """Reason why there is no answer."""


@dataclass(frozen=True)
class Hello:
    """A worker's introduction."""

    identity: Identity | None
    """Identity to compare with the job's; None where the worker could not get ready."""
    node: str
    process: int
    stage_names: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Packed:
    """An answer: bytes and layouts that restore the very tensors, strides included."""

    parts: dict[str, tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]]
    """By name as `feature_layout.py` has it: values in the order of memory, shape, strides."""
    flops: int
    seconds: float
    """Time of the forward pass."""

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(values.nbytes for values, _, _ in self.parts.values())


@dataclass(frozen=True)
class Ready:
    """An answer that lies ready for a training, and the worker that gave it."""

    number: int
    worker: str
    answer: list[Any]
    """One ObjectRef, in a list so that Ray does not fetch it on the way."""


@dataclass(frozen=True)
class Collected:
    """New answers for a training, and how the pool stands."""

    ready: list[Ready]
    poisoned: list[tuple[int, str]]
    """Numbers of requests that no worker can answer, with the reason."""
    workers: int
    window: int
    """Requests that the training may have open or ready."""
    refused: str = ""
    """Reason why the latest refused worker was refused."""
    known: bool = True
    """False: the pool has been restarted and knows nothing of this training."""


def needs_bits(needs: Needs) -> int:
    """Encode `Needs` as a number."""
    return sum(getattr(needs, each.name) << i for i, each in enumerate(fields(Needs)))


def needs_of(bits: int) -> Needs:
    """Decode a number into `Needs`."""
    return Needs(**{each.name: bool(bits >> i & 1) for i, each in enumerate(fields(Needs))})


def pack(features: Features, needs: Needs, *, flops: int, seconds: float) -> Packed:
    """Pack the logits and whatever else is needed and shown by the network."""
    parts = parts_of(features, needs).items()
    return Packed({name: _values(part) for name, part in parts}, flops, seconds)


def unpack(packed: Packed, device: torch.device) -> Features:
    """Return the tensors as they left the network, on the training's device.

    Raises KtbenchError when the message does not hold what it says.
    """
    parts = packed.parts.items()
    return features_of({name: _tensor(name, *part).to(device) for name, part in parts})


def _values(value: Tensor) -> tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]:
    """Return values in the order of memory: no copy is needed where the layout is dense."""
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
    kind = np.bool_ if name == MASK else np.float32
    if values.dtype != kind or values.ndim != 1 or values.size != size or reach > size:
        raise KtbenchError(f"{name}: {values.dtype} {values.shape} for a tensor of {shape}")
    # A copy: what lies in the object store cannot be written, and is let go sooner.
    return torch.from_numpy(values.copy()).as_strided(shape, strides)
