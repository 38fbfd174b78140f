"""Outline of a network without training it: shapes, parameters, FLOPs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ktbench import catalogue
from ktbench.isolation import OwnFault, own_code
from ktbench.networks.layout import safe
from ktbench.networks.weights import fitting
from ktbench.records import Begun, Item, KtbenchError, NumericSpec
from ktbench.students._blocks import Replacing
from ktbench.students._contract import Inputs, Student
from ktbench.supervision import mark
from ktbench.system.machine import bounded_memory
from ktbench.tasks._contract import Signature
from ktbench.transfer_methods._contract import Shapes

_LARGE = 256
"""Length of an axis from which the cost of a pass is estimated first."""
_MOST_FLOPS = 5e10
"""Most FLOPs of one sample's pass: six times a ResNet-50's at 224 pixels per side."""
_MOST_CALLS = 300_000
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "overflow",
)
"""Words of torch's errors where memory is refused, or a size overflows."""
_ANY_SIZE = 12
"""Size, where data gives it, of a network that is built to see whether its settings are right."""


class _OneModule(nullcontext[None]):
    """Replaces the counter's module tracker: all that runs belongs to the whole."""

    parents = frozenset({"Global"})


def _convolution_backward(
    grad: torch.Size,
    inputs: torch.Size,
    weight: torch.Size,
    *rest: Any,
    **_: Any,
) -> int:
    """Count as many operations as forward for each gradient: of the inputs, and of the weights."""
    transposed, wanted = rest[4], rest[7]
    positions = inputs if transposed else grad
    passes = sum(bool(one) for one in wanted[:2])
    return 2 * passes * positions[0] * math.prod(positions[2:]) * math.prod(weight)


class FlopCounter(FlopCounterMode):
    """Counts the floating-point operations of everything inside, forward and backward.

    torch's counter also tracks the running module, by hooks on modules and tensors. They fail
    around `torch.autograd.grad` for modules that take parameters as their inputs, as
    every parametrization does (`weight_norm`, `spectral_norm`, `orthogonal`). Of a convolution in
    groups it counts the gradient of the weights once too often for each group: a depthwise one of
    64 channels would cost 66 forward passes in place of 3.
    """

    def __init__(self) -> None:
        backward = {torch.ops.aten.convolution_backward: _convolution_backward}
        super().__init__(display=False, custom_mapping=backward)
        self.mod_tracker = _OneModule()  # type: ignore[assignment]


@dataclass(frozen=True)
class Outline:
    """Shapes and size of a network for one data set."""

    shapes: Shapes
    parameters: int


def try_build(name: str, settings: dict[str, Any], base: str = ".") -> None:
    """Raise KtbenchError where a network cannot be built with these settings.

    Files that they name are left out, as these fit the data's sizes alone.
    """
    if files := catalogue.file_setting(catalogue.student_settings(name, base), settings):
        settings = {key: value for key, value in settings.items() if key != files}
    item = Item(name=name, settings=settings)
    if not own_names(item):
        built(item, dict.fromkeys(catalogue.sizes_of(name), _ANY_SIZE), base)


def own_names(item: Item) -> list[str]:
    """Return the names of users' own networks in an item: its own and those in its settings."""
    settings = [item.settings.get(key) for key in catalogue.network_settings(item.name)]
    names = [item.name, *(catalogue.named(entry)[0] for entry in settings if entry)]  # type: ignore[arg-type]
    return [name for name in names if catalogue.is_own(name)]


def outline(item: Item, signature: Signature, base: str, *, trained: bool = False) -> Outline:
    """Return shapes and parameter count for a data set, from one pass over zeros.

    A user's own network gets noise instead, as its code may depend on its inputs; `trained` tries a
    training step of it, too. Raises KtbenchError with one sentence where the network fails.
    """
    if reason := catalogue.refused(item.label):
        raise KtbenchError(f"{item.label} cannot be looked at: {reason}")
    if unread := catalogue.unread_sizes(item.name, signature.essential):
        raise KtbenchError(
            f"student {item.name} is for another task: it is built without {', '.join(unread)}, "
            "which this data needs"
        )
    mark(item.label, "looking at the network", item.label)
    of_user = bool(own_names(item))
    _refuse_endless(item, signature, base)
    student = built(item, signature.dimensions, base).eval()
    trouble = f"{item.label} cannot take {signature.noun}s of {signature.size}"
    with _explained(trouble), bounded_memory():
        inputs = signature.noise(2) if of_user else signature.blank()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            features = student.forward_features(inputs, preacts=student.has_preacts)
            if of_user:
                _check_logits(features.logits, 2, signature)
                _check_logits(student(inputs), 2, signature)
        shapes = Shapes.of(features, student.stage_names)
        parameters = sum(parameter.numel() for parameter in student.parameters())
    if of_user and trained:
        with _explained(f"{item.label} cannot be trained"), torch.random.fork_rng(devices=[]):
            _try_step(student, signature)
    return Outline(shapes, parameters)


def begun_from(
    student: Item, signature: Signature, before: Item, trained_on: Signature, base: str
) -> Begun:
    """Say what a student for some data can take of one that was trained on other data."""
    given = built(before, trained_on.dimensions, base).state_dict()
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    return fitting(built(student, signature.dimensions, base), shapes)


@contextmanager
def _explained(trouble: str) -> Iterator[None]:
    """Turn whatever a network raises into a KtbenchError of one line."""
    try:
        with own_code():
            yield
    except OwnFault as fault:
        raise KtbenchError(f"{trouble}: {_described(fault.__cause__ or fault)}") from fault


def _check_logits(logits: Any, batch: int, signature: Signature) -> None:
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"its logits are a {type(logits).__name__}, not a tensor")
    if tuple(logits.shape) != (batch * signature.predictions, signature.outputs):
        raise ValueError(
            f"its logits are {tuple(logits.shape)} for {batch} {signature.noun}s of "
            f"{signature.outputs} classes"
        )
    if not logits.is_floating_point():
        raise ValueError(f"its logits are {logits.dtype}, not real numbers with a fraction")


def _try_step(student: Student, signature: Signature) -> None:
    """Try a pass in train mode and its gradient, as the training takes them."""
    inputs = signature.noise(4)
    layout = safe(student, inputs, NumericSpec())
    layout.place(student)
    student.train()
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("it has no parameters that require a gradient")
    logits = student.forward_features(layout.inputs(inputs)).logits
    _check_logits(logits, 4, signature)
    if not logits.requires_grad:
        raise ValueError("no parameter has part in its logits")
    with layout.running():
        torch.autograd.grad(logits.float().square().mean(), parameters, allow_unused=True)


def _refuse_endless(item: Item, signature: Signature, base: str) -> None:
    """Raise KtbenchError where one sample's pass would take minutes, judged by a smaller sample.

    A network's operations grow with the area of its inputs; one that takes no smaller ones is let
    through.
    """
    small = signature.smaller(_LARGE, _LARGE // 4)
    if small is None:
        return
    try:
        flops = forward_flops(item, small, base) * signature.values / small.values
    except KtbenchError:
        return
    if flops > _MOST_FLOPS:
        raise KtbenchError(
            f"{item.label} would take about {flops:.1e} FLOPs for one {signature.noun} of "
            f"{signature.size}, and {_MOST_FLOPS:.0e} is the most: make {signature.sized_by} or "
            "the network smaller"
        )


def forward_flops(item: Item, signature: Signature, base: str) -> int:
    """Count the operations of one sample's forward pass, a multiply-add as two."""
    student = built(item, signature.dimensions, base)
    return flops_of(student, sample(item, signature))[0]


def replaced_flops(item: Item, signature: Signature, base: str) -> int:
    """Count the operations of one sample's pass through all that stands for a teacher's blocks."""
    student = built(item, signature.dimensions, base)
    assert isinstance(student, Replacing)
    return sum(flops_of(student, sample(item, signature), student.replacements)[1].values())


def sample(item: Item, signature: Signature) -> Inputs:
    """Return a sample to run a network on: noise for a user's own, which may depend on it."""
    return signature.noise() if own_names(item) else signature.blank()


def flops_of(
    student: Student, inputs: Inputs, modules: Mapping[str, nn.Module] | None = None
) -> tuple[int, dict[str, int]]:
    """Count the operations of a forward pass, and those of some of the network's modules."""
    begun: dict[str, int] = {}
    counts = dict.fromkeys(modules or {}, 0)
    student.eval()
    with ExitStack() as hooks, torch.random.fork_rng(devices=[]), torch.no_grad():
        counter = hooks.enter_context(FlopCounter())
        total = counter.get_total_flops

        def begin(name: str, *_: Any) -> None:
            begun[name] = total()

        def end(name: str, *_: Any) -> None:
            counts[name] += total() - begun[name]

        for name, module in (modules or {}).items():
            for register, hook in (
                (module.register_forward_pre_hook, begin),
                (module.register_forward_hook, end),
            ):
                hooks.callback(register(partial(hook, name)).remove)
        student.forward_features(inputs, preacts=student.has_preacts)
    return int(total()), counts


class _NoDraws(TorchFunctionMode):
    """Skips the initialisation of weights: no shape depends on them, and drawing them is slow.

    torch's meta device is no alternative: its first pass imports torch's compiler, which takes
    longer than a whole plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Let initialisers of `torch.nn.init` return their tensor unchanged; run anything else.

        A plain `normal_` runs too, as code that draws until a value fits would never end otherwise.
        A network of endless layers is stopped by a KtbenchError.
        """
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise KtbenchError(
                f"a network without end: it takes over {_MOST_CALLS:,} calls of torch to build"
            )
        options = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else options["tensor"]
        return func(*args, **options)


def built(item: Item, sizes: Mapping[str, int], base: str) -> Student:
    """Build a network without initial values and without advancing the global generator.

    A user's own gets its values, as it may compute with them while it is built.
    """
    undrawn = nullcontext() if own_names(item) else _NoDraws()
    trouble = f"{item.label} cannot be built"
    with torch.random.fork_rng(devices=[]), bounded_memory(), undrawn, _explained(trouble):
        return catalogue.build_student(item.name, item.settings, base=base, **sizes)


def _described(error: BaseException) -> str:
    """Describe an error in one line without torch's advice, with its type where that helps."""
    text = " ".join(str(error).split())[:200]
    if lacks_memory(error):
        return "it takes more memory than half of what is free here"
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def lacks_memory(error: BaseException) -> bool:
    """Return True for an error that memory was refused, or that a size overflowed."""
    text = str(error)
    return isinstance(error, MemoryError | OverflowError) or any(w in text for w in _NO_MEMORY)
