"""Run networks under numeric settings: threads, precision, device, compiler."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import lru_cache
from itertools import count
from types import FunctionType
from typing import Any

import torch

from ktbench.networks.layout import FIRST, Layout
from ktbench.records import KtbenchError, NumericSpec
from ktbench.students._contract import Features, Heads, Inputs, Student
from ktbench.system.machine import usable_cores
from ktbench.transfer_methods._contract import Needs

EVERYTHING = Needs(**dict.fromkeys((field.name for field in fields(Needs)), True))
"""Request for everything that a network can show."""
COMPARED = replace(EVERYTHING, attentions=False)
"""Request for the outputs that stages are compared by. Heads would take the most memory, and many
samples are compared; the rest stays, so that no cache answers with the outputs of other views."""
_KEEP = {-3: 1 << 30, -1: (1 << 31) - 1, -8: 1}
"""Options by number in `malloc.h`: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (bytes), M_ARENA_MAX."""
_Pass = Callable[[Student, Inputs], tuple[Any, ...]]
_numbers = count()


def check(spec: NumericSpec) -> None:
    """Raise KtbenchError, in one line, where this machine cannot run such settings."""
    if spec.threads > (cores := usable_cores()):
        raise KtbenchError(
            f"numeric.threads: {spec.threads} are more than the {cores} cores that this process "
            f"may use: set it to {cores} at most, or run where there are more"
        )
    if spec.device == "cuda" and not torch.cuda.is_available():
        built = "has no CUDA build" if torch.version.cuda is None else "finds no driver or device"
        raise KtbenchError(
            "numeric.device: cuda, but torch sees no GPU here "
            f"(torch {torch.__version__} {built}): train on a machine with one, or set it to cpu"
        )
    if spec.compile:
        _check_compiler()


@lru_cache(maxsize=1)
def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import

    try:
        get_cpp_compiler()
    except Exception as error:
        raise KtbenchError(
            "numeric.compile needs a C++ compiler, and none was found: install g++ "
            "(apt-get install g++), or leave numeric.compile out"
        ) from error


def prepare(spec: NumericSpec) -> torch.device:
    """Set this process up for the settings and return the device; raises as `check` does."""
    check(spec)
    _keep_freed_memory()
    torch.set_num_threads(spec.threads)
    on_gpu = spec.device == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at cuBLAS's start
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        # Some gradients have no repeatable kernel there; equal bits are promised on CPUs alone.
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    # Otherwise every new tensor is written twice, first with NaN, for code that reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(spec.device)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Keep large freed blocks in this process, for the tensors of the next step.

    Left alone, glibc maps every large tensor again, and the kernel clears its pages too: up to a
    third of a forward pass. The autograd engine's thread shares the one heap, as those of other
    threads are too small for such blocks. Near a memory limit, what is free is given back
    (`train/memory_budget.py`).
    """
    with suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _KEEP.items():
            mallopt(option, value)


class Runner:
    """Runs one network's `forward_features` under numeric settings.

    Outputs are in single precision. Under bf16 or compiled they hold only what was asked for; the
    plain pass shows everything but sums and attentions that nobody reads. `frozen` is for a network
    whose weights never change: its compiled form holds them as constants (folded into convolutions,
    laid out for the kernels). Other networks of one `architecture` share their compiled code.
    """

    def __init__(
        self,
        network: Student,
        spec: NumericSpec,
        *,
        architecture: str = "",
        frozen: bool = False,
        layout: Layout = FIRST,
    ) -> None:
        self.network = network
        self.layout = layout
        self.device = torch.device(spec.device)
        self._bf16, self._compile, self._frozen = spec.precision == "bf16", spec.compile, frozen
        self._architecture = f"{next(_numbers)}" if frozen else f"{architecture} {layout.name}"

    def __call__(self, inputs: Inputs, needs: Needs, *, eager: bool = False) -> Features:
        """Run one pass, `eager` for not compiled; outputs that the network lacks are missing."""
        needs = needs if self.network.has_preacts else _without_preacts(needs)
        inputs = self.layout.inputs(inputs)
        with self.layout.running():
            return self._pass(inputs, needs, compiled=self._compile and not eager)

    def _pass(self, inputs: Inputs, needs: Needs, *, compiled: bool) -> Features:
        if not compiled and not self._bf16:
            shown = self.network.forward_features(inputs, preacts=needs.preacts)
            # Nothing else holds a pre-activation network's sums, or a frozen one's attentions: few
            # methods read them.
            sums = shown.sums if needs.sums else ()
            return replace(
                shown, sums=sums, attentions=shown.attentions if needs.attentions else ()
            )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            if compiled:
                shown = self._compiled_pass(inputs, needs)
            else:
                shown = self.network.forward_features(inputs, preacts=needs.preacts)
        return _needed(shown, needs)

    def _compiled_pass(self, inputs: Inputs, needs: Needs) -> Features:
        """Run the pass compiled for one set of outputs, which decides fusion and so the bits.

        A student's outputs are up to its method alone. A frozen network is read by several methods:
        it always shows everything, so that none of them changes what the others see.
        """
        if self._frozen:
            needs = EVERYTHING if self.network.has_preacts else _without_preacts(EVERYTHING)
        with _compiling(frozen=self._frozen, lay_out=self.layout.channels_last):
            return Features(*_compiled(self._architecture, needs)(self.network, inputs))


def _without_preacts(needs: Needs) -> Needs:
    return replace(needs, preacts=False)


def _needed(shown: Features, needs: Needs) -> Features:
    """Select the needed outputs of a pass, in single precision, with their memory layout."""
    logits, stages, embedding, preacts, stem, sums, attentions, mask = _chosen(shown, needs)
    return Features(
        logits.float(),
        tuple(stage.float() for stage in stages),
        None if embedding is None else embedding.float(),
        tuple(stage.float() for stage in preacts),
        None if stem is None else stem.float(),
        tuple(each.float() for each in sums),
        tuple(Heads(*(part.float() for part in heads)) for heads in attentions),
        mask,
    )


def _chosen(shown: Features, needs: Needs) -> tuple[Any, ...]:
    """Select the fields of `Features`, in order, as far as they are needed."""
    return (
        shown.logits,
        shown.stages if needs.stages else (),
        shown.embedding if needs.embedding else None,
        shown.preacts if needs.preacts else (),
        shown.stem if needs.stem else None,
        shown.sums if needs.sums else (),
        shown.attentions if needs.attentions else (),
        shown.mask if needs.mask else None,
    )


# ---------------------------------------------------------------- the compiler


@lru_cache(maxsize=256)
def _compiled(architecture: str, needs: Needs) -> _Pass:
    """Compile a pass for all networks of an architecture.

    The compiler counts recompilations per code object and gives up after a few, so each
    architecture gets its own code object: otherwise a cohort of many would run uncompiled.
    """

    def shown(network: Student, inputs: Inputs) -> tuple[Any, ...]:
        return _chosen(network.forward_features(inputs, preacts=needs.preacts), needs)

    code = shown.__code__.replace(co_name=f"shown_{next(_numbers)}")
    copy = FunctionType(code, globals(), code.co_name, None, shown.__closure__)
    compiled: _Pass = torch.compile(copy, dynamic=False)
    return compiled


@contextmanager
def _compiling(*, frozen: bool, lay_out: bool) -> Iterator[None]:
    """Apply the compiler's settings while one of our passes runs.

    With `lay_out` it puts channels last in any network, whatever its inputs.
    """
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    with (
        dynamo.patch(fail_on_recompile_limit_hit=True),
        # A phase with several updates goes through the backward pass once for each.
        functorch.patch(donated_buffer=False),
        inductor.patch(freezing=frozen, layout_optimization=lay_out),
    ):
        yield


# ---------------------------------------------------------------- time


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Clock:
    """Adds up the seconds of blocks of work; on a GPU by the device's events, without waiting."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        """Begin a block."""
        if self._on_gpu:
            first, last = (_timed_event() for _ in range(2))
            first.record()
            self._marks.append((first, last))
        else:
            self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """End the block, after an error too."""
        if self._on_gpu:
            self._marks[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out a part of a block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def read(self) -> float:
        """Return the seconds since the last reading; on a GPU, wait for the last block's end."""
        for first, last in self._marks:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1e3
        seconds, self._seconds, self._marks = self._seconds, 0.0, []
        return seconds
