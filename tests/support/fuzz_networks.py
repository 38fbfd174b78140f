"""Random small networks through one training step as ktbench takes it, against double precision.

`python -m tests.support.fuzz_networks FIRST COUNT`: a line of JSON for each network of a seed,
flushed before the next is taken, so that a process that ends tells where.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ktbench.networks.arithmetic import Step, check
from ktbench.networks.layout import Layout
from ktbench.networks.numeric import Runner
from ktbench.records import NumericSpec
from ktbench.students._contract import Student
from ktbench.students._own import wrap
from ktbench.transfer_methods._contract import Needs

CLASSES = 5
FAR = 0.02
"""Of a gradient, relative to its size: what a ReLU's edge may make of rounding; a wrong gradient is
off by its own size."""


class Shifted(nn.Module):
    """A 1x1 convolution called as a function, with its stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1) / inputs**0.5)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, stride=self.stride)


def _convolution(rng: random.Random, inputs: int, side: int) -> tuple[nn.Module, int]:
    """Draw a convolution that fits maps of this side, and return it with its output channels."""
    kernel = rng.choice([k for k in (1, 1, 1, 2, 3, 3, 4, 5) if k <= side])
    stride = rng.choice([1, 1, 2, 2, 3]) if side > 2 else 1
    outputs = rng.randint(1, 20)
    kind = rng.random()
    if kernel == 1 and kind < 0.2:
        return Shifted(inputs, outputs, stride), outputs
    if kind < 0.3:
        up = nn.ConvTranspose2d(inputs, outputs, kernel, stride=min(stride, 2))
        return nn.Sequential(up, nn.AdaptiveAvgPool2d(side)), outputs
    groups = rng.choice([g for g in range(1, inputs + 1) if inputs % g == 0] + [1, 1, 1])
    outputs = groups * max(1, outputs // groups)
    dilation = rng.choice([1, 1, 2]) if 2 * (kernel - 1) < side else 1
    padding = rng.choice([0, dilation * (kernel - 1) // 2])
    made = nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation, groups, bias=rng.random() < 0.5
    )
    return made, outputs


def _norm(rng: random.Random, channels: int) -> list[nn.Module]:
    kinds = [nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), None, nn.BatchNorm2d(channels)]
    found = rng.choice(kinds)
    return [] if found is None else [found]


def network(seed: int) -> tuple[nn.Module, Tensor]:
    """Draw a network and a batch for it from a seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    channels, side = rng.randint(1, 20), rng.choice([5, 8, 9, 12, 16])
    images = torch.randn(rng.choice([2, 4, 8, 16]), channels, side, side)
    layers: list[nn.Module] = []
    for _ in range(rng.randint(1, 4)):
        made, channels = _convolution(rng, channels, side)
        layers += [made, *_norm(rng, channels)]
        layers.append(rng.choice([nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh])())
        side = nn.Sequential(*layers).eval()(images[:1]).shape[-1]
        if side > 3 and rng.random() < 0.3:
            layers.append(rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)]))
            side = nn.Sequential(*layers).eval()(images[:1]).shape[-1]
        if side < 1:
            break
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*layers, *head), images


def _student(seed: int) -> Student:
    return wrap(lambda: network(seed)[0], num_classes=CLASSES, in_channels=0)


def _gradients(student: Student, images: Tensor, labels: Tensor, layout: Layout) -> list[Tensor]:
    layout.place(student.train())
    run = Runner(student, NumericSpec(), layout=layout)
    with layout.running():
        loss = functional.cross_entropy(run(images, Needs(logits=True)).logits, labels)
        return [loss.detach(), *torch.autograd.grad(loss, list(student.parameters()))]


def _far(seed: int, layout: Layout) -> float:
    """Return the largest relative difference between the losses and gradients of two steps."""
    images = network(seed)[1]
    labels = torch.arange(len(images)) % CLASSES
    given = _gradients(_student(seed), images, labels, layout)
    plain = Layout("contiguous_without_onednn")
    exact = _gradients(_student(seed).double(), images.double(), labels, plain)
    scale = max(float(g.abs().max()) for g in exact)
    return max(
        float((a - b).abs().max()) / max(float(b.abs().max()), 1e-3 * scale, 1e-12)
        for a, b in zip(given, exact, strict=True)
    )


def taken(seed: int) -> dict[str, Any]:
    """Check one network; return the verdict, and how far it really is from double precision."""
    images = network(seed)[1]
    labels = torch.arange(len(images)) % CLASSES
    verdict = check(Step(lambda: _student(seed), images, labels, NumericSpec()))
    layout = Layout(verdict.layout)
    far = _far(seed, layout) if verdict.right else 0.0
    return {
        "seed": seed,
        "layout": verdict.layout,
        "right": verdict.right,
        "reason": verdict.reason,
        "worst": verdict.worst,
        "far": far,
    }


if __name__ == "__main__":
    first, number = map(int, sys.argv[1:])
    for one in range(first, first + number):
        print(json.dumps({"begun": one}), flush=True)
        print(json.dumps(taken(one)), flush=True)
