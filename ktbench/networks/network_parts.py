"""Parts of a network by name, to learn at rates of their own or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ktbench.catalogue import nearest
from ktbench.networks.state_dicts import wrapper_of
from ktbench.records import KtbenchError, WeightsFile
from ktbench.students._contract import Inputs, Student

STEM, HEAD = "stem", "head"


def dependencies(output: Tensor, parameters: Sequence[nn.Parameter]) -> set[int]:
    """Return the positions of the parameters that an output depends on."""
    if not output.requires_grad:
        return set()
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
    return {i for i, gradient in enumerate(gradients) if gradient is not None}


def parts_of(student: Student, inputs: Inputs) -> dict[str, frozenset[str]]:
    """Return the names of a network's parameters by part: its stem, its stages, its head.

    A stage has what its output depends on and no earlier part has, so that the first one of a
    network without a stem begins at the inputs. Runs the network once in eval mode.
    """
    named = {name: p for name, p in student.named_parameters() if p.requires_grad}
    names, parameters = list(named), list(named.values())
    mode = student.training
    student.eval()
    try:
        with torch.enable_grad():
            features = student.forward_features(inputs)
        outputs = [] if features.stem is None else [(STEM, features.stem)]
        outputs += zip(student.stage_names, features.stages, strict=True)
        reached: set[int] = set()
        parts = {}
        for part, output in outputs:
            depends = dependencies(output, parameters)
            parts[part] = frozenset(names[i] for i in depends - reached)
            reached |= depends
    finally:
        student.train(mode)
    parts[HEAD] = frozenset(name for name in names if name.startswith(student.head_names))
    return parts


@dataclass(frozen=True)
class Learning:
    """Names of the parameters that are frozen, and factors of the learning rate of others."""

    frozen: frozenset[str]
    scales: Mapping[str, float]


def learning_of(student: Student, inputs: Inputs, given: WeightsFile) -> Learning:
    """Return how a network's parameters learn; KtbenchError for a name that names nothing."""
    if not (given.freeze or given.lr_scale):
        return Learning(frozenset(), {})
    names = [name for name, p in student.named_parameters() if p.requires_grad]
    parts = parts_of(student, inputs)
    frozen = frozenset[str]().union(
        *(_named(part, parts, names, "freeze") for part in given.freeze)
    )
    if frozen >= set(names):
        raise KtbenchError("freeze leaves nothing to train: leave out a part of it")
    scales: dict[str, float] = {}
    first: dict[str, str] = {}
    for part, factor in sorted(given.lr_scale.items()):
        for name in sorted(_named(part, parts, names, "lr_scale")):
            if name in frozen:
                raise KtbenchError(f"lr_scale: {part} has {name}, which freeze leaves untrained")
            if scales.get(name, factor) != factor:
                raise KtbenchError(f"lr_scale: {name} has two factors, by {first[name]} and {part}")
            scales[name], first[name] = factor, part
    return Learning(frozen, scales)


def _named(
    part: str, parts: Mapping[str, frozenset[str]], names: Sequence[str], key: str
) -> frozenset[str]:
    """Return the parameters that a part's name, or a pattern, stands for."""
    wrapper = wrapper_of(names)
    matched = parts.get(part) or frozenset(
        name
        for name in names
        if fnmatchcase(name, part) or fnmatchcase(name.removeprefix(wrapper), part)
    )
    if matched:
        return matched
    close = nearest(part, [name for name, of in parts.items() if of])
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    known = ", ".join(name for name, of in parts.items() if of)
    raise KtbenchError(
        f"{key}: {part!r} names nothing of this network: {hint}known are {known}, and patterns of "
        f"names such as {names[0].removeprefix(wrapper)}"
    )


def hold(student: nn.Module, frozen: frozenset[str]) -> None:
    """Freeze parameters, and keep modules that have no others in eval mode whatever they are set.

    So the statistics of their BatchNorms stay still, and nothing in them is dropped.
    """
    still = {id(p) for name, p in student.named_parameters() if name in frozen}
    for parameter in student.parameters():
        if id(parameter) in still:
            parameter.requires_grad_(False)
    for module in _held(student, still):
        module.eval()
        for part in module.modules():
            part.train = _stay  # type: ignore[assignment]


def _stay(mode: bool = True) -> None:
    """Stand in for `train` of a module that stays in eval mode."""


def _held(module: nn.Module, still: set[int]) -> Iterator[nn.Module]:
    """Yield the outermost modules of which every parameter is frozen."""
    parameters = [id(parameter) for parameter in module.parameters()]
    if parameters and still.issuperset(parameters):
        yield module
        return
    for child in module.children():
        yield from _held(child, still)
