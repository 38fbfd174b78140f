"""The CIFAR-100 comparison beside ours: its networks on our weights, its losses on both.

`reference()` gives the comparison's parts: our own, written from its structure and formulas, or the
authors' own, where KTBENCH_REPDISTILLER names a checkout of their code.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench import catalogue
from ktbench.students import Student
from ktbench.students._contract import Features
from tests.support import comparison_losses, comparison_networks

CHECKOUT = os.environ.get("KTBENCH_REPDISTILLER", "")
CLASSES = 10
OURS = {
    "ResNet50": "resnet50",
    "mobile_half": "mobilenet_v2",
    "ShuffleV1": "shufflenet_v1",
    "ShuffleV2": "shufflenet_v2",
}
"""Our names of the comparison's networks, where they differ."""


@cache
def reference() -> Any:
    """The comparison's classes by name, and `build(name, num_classes)`."""
    if not CHECKOUT:
        return SimpleNamespace(build=comparison_networks.build, **vars(comparison_losses))
    sys.path.insert(0, CHECKOUT)
    parts: dict[str, Any] = {}
    for name in ("models.util", "distiller_zoo", "crd.criterion"):
        parts |= vars(importlib.import_module(name))
    # Its alias table is moved to a GPU whether there is one or not.
    importlib.import_module("crd.memory").AliasMethod.cuda = lambda _: None
    named = importlib.import_module("models").model_dict
    return SimpleNamespace(**parts | {"build": lambda name, n: named[name](num_classes=n)})


# ---------------------------------------------------------------- our weights in its networks

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def _stage(match: re.Match[str], rest: str) -> str:
    return f"stages.{int(match[1]) - 1}.{match[2]}.{rest}"


_BLOCK = r"layer(\d)\.(\d+)\."


def _steps(places: dict[str, str]) -> Rules:
    return [
        (_BLOCK + re.escape(theirs) + r"\.", lambda m, ours=ours: _stage(m, ours + "."))
        for theirs, ours in places.items()
    ]


_RESIDUAL = {f"conv{i}": f"residual.{3 * i - 3}" for i in (1, 2, 3)} | {
    f"bn{i}": f"residual.{3 * i - 2}" for i in (1, 2, 3)
}
_STEM: Rules = [(r"conv1\.", "stem.0."), (r"bn1\.", "stem.1."), (r"(linear|fc)\.", "head.")]


def _rules(name: str) -> Rules:
    """Patterns of the comparison's names of parameters, and what they are called here."""
    if name.startswith("wrn_"):
        return _wide_rules((int(name.split("_")[1]) - 4) // 6)
    if name.startswith("vgg"):
        blocks = r"block(\d)\.(\d+)\."
        return [
            (blocks, lambda m: f"stages.{m[1]}.{int(m[2]) + (m[1] != '0')}."),
            (r"classifier\.", "head."),
        ]
    if name == "mobile_half":
        return _mobile_rules()
    if name == "ShuffleV1":
        places = {"conv1": "reduce.0", "bn1": "reduce.1"}
        places |= {"conv2": "expand.0", "bn2": "expand.1", "conv3": "expand.3", "bn3": "expand.4"}
        return [*_steps(places), *_STEM]
    if name == "ShuffleV2":
        return _shuffle2_rules()
    words = ("downsample", "shortcut")
    shortcuts = {f"{word}.{i}": f"shortcut.{i}" for word in words for i in "01"}
    return [*_steps(_RESIDUAL | shortcuts), *_STEM]


def _wide_rules(depth: int) -> Rules:
    def opening(match: re.Match[str]) -> str:
        stage, block = int(match[1]) - 1, int(match[2])
        if stage and not block:  # closes the stage before
            return f"stages.{stage - 1}.{depth}."
        return f"stages.{stage}.{block}.opening.0."

    places = {"conv1": "residual.0", "bn2": "residual.1", "conv2": "residual.3"}
    places |= {"convShortcut": "shortcut"}
    block = r"block(\d)\.layer\.(\d+)\."
    inner: Rules = [
        (block + theirs + r"\.", lambda m, ours=ours: _stage(m, ours + "."))
        for theirs, ours in places.items()
    ]
    outer: Rules = [(r"conv1\.", "stem."), (r"bn1\.", f"stages.2.{depth}."), (r"fc\.", "head.")]
    return [(block + r"bn1\.", opening), *inner, *outer]


def _mobile_rules() -> Rules:
    places = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (2, 0), 4: (2, 4), 5: (3, 0), 6: (3, 3)}

    def block(match: re.Match[str]) -> str:
        stage, first = places[int(match[1])]
        return f"stages.{stage}.{first + int(match[2])}.residual."

    return [
        (r"conv1\.", "stem."),
        (r"blocks\.(\d)\.(\d)\.conv\.", block),
        (r"conv2\.", "embed."),
        (r"classifier\.0\.", "head."),
    ]


def _shuffle2_rules() -> Rules:
    down = {"conv1": "short.0", "bn1": "short.1", "conv2": "short.2", "bn2": "short.3"}
    down |= {"conv3": "long.0", "bn3": "long.1", "conv4": "long.3", "bn4": "long.4"}
    down |= {"conv5": "long.5", "bn5": "long.6"}
    split = {"conv1": "branch.0", "bn1": "branch.1", "conv2": "branch.3", "bn2": "branch.4"}
    split |= {"conv3": "branch.5", "bn3": "branch.6"}
    first: Rules = [
        (rf"layer(\d)\.(0)\.{theirs}\.", lambda m, ours=ours: _stage(m, ours + "."))
        for theirs, ours in down.items()
    ]
    outer: Rules = [(r"conv2\.", "embed.0."), (r"bn2\.", "embed.1.")]
    return [*first, *_steps(split), *outer, *_STEM]


def our_name(network: str, parameter: str) -> str:
    """What a parameter of one of the comparison's networks is called in ours."""
    for pattern, ours in _rules(network):
        if match := re.match(pattern, parameter):
            rest = parameter[match.end() :]
            return (ours if isinstance(ours, str) else ours(match)) + rest
    raise KeyError(parameter)


@dataclass(frozen=True)
class Twins:
    """One network twice, in double precision, with the same weights."""

    name: str
    ours: Student
    theirs: Any


def twins(name: str, seed: int, *, fresh_end: bool = False) -> Twins:
    """Build a network of ours with random weights and statistics, and the comparison's with them.

    `fresh_end`: a last BatchNorm that closes a wide ResNet is as it was initialised.
    """
    torch.manual_seed(seed)
    arguments = {"num_classes": CLASSES, "in_channels": 3}
    ours = catalogue.build_student(OURS.get(name, name), {}, **arguments).double()
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    if fresh_end and name.startswith("wrn_"):
        norms.remove(ours.get_submodule(our_name(name, "bn1.weight").rpartition(".")[0]))
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0, 0.2)
            norm.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    theirs = reference().build(name, CLASSES).double()
    state, wanted = ours.state_dict(), theirs.state_dict()
    assert {our_name(name, key) for key in wanted} == set(state)
    theirs.load_state_dict({key: state[our_name(name, key)] for key in wanted})
    return Twins(name, ours, theirs)


def images(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, 32, 32, generator=draw, dtype=torch.float64)


@dataclass(frozen=True)
class Side:
    """One network's pass as both see it."""

    ours: Features
    names: tuple[str, ...]
    feat: list[Tensor]
    """The comparison's list: first map, stages, embedding."""
    preact: list[Tensor]
    """The same before activation."""
    logits: Tensor


def passed(pair: Twins, inputs: Tensor, *, training: bool) -> Side:
    """Run both; `training` by batch statistics, except where the comparison's initial phase rests.

    In the comparison the initial phase of a method trains the modules before the classifier alone.
    """
    pair.ours.train(training)
    ours = pair.ours.forward_features(inputs, preacts=True)
    kept = {key: value.clone() for key, value in pair.theirs.state_dict().items()}
    feat, logits = pair.theirs.train(training)(inputs, is_feat=True)
    pair.theirs.load_state_dict(kept)
    pair.theirs.eval()
    if training:
        pair.theirs.get_feat_modules().train()
    preact = pair.theirs(inputs, is_feat=True, preact=True)[0]
    pair.theirs.load_state_dict(kept)
    return Side(ours, pair.ours.stage_names, feat, preact, logits)


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    """Give the comparison's adaptor the weights of ours, which are registered in the same order."""
    mine, wanted = list(ours.state_dict().values()), theirs.state_dict()
    assert [v.shape for v in mine] == [v.shape for v in wanted.values()]
    theirs.load_state_dict(dict(zip(wanted, mine, strict=True)))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -functional.log_softmax(logits, 1)[range(len(labels)), labels].mean()
