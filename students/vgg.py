"""VGG with BatchNorm, as the CIFAR comparison of distillation methods uses it.

Simonyan and Zisserman, arXiv 1409.1556, with one linear classifier on the mean of the last map.
Five stages, each seen before the pooling that follows it; on 32 × 32 images their maps have
32, 16, 8, 4 and 4 pixels a side, on 64 × 64 twice as many but 4 in the last, on 8 × 8
8, 4, 2, 1 and 1.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._contract import StagedNetwork, Student, scaled
from ktbench.students._layers import initialise, plain_stages

LAYOUTS = {
    "vgg8": ((64,), (128,), (256,), (512,), (512,)),
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}
VARIANTS = tuple(LAYOUTS)


def build(variant: str, *, num_classes: int, in_channels: int, width: float = 1.0) -> Student:
    """A VGG of freshly initialised weights."""
    layout = [[scaled(c, width) for c in stage] for stage in LAYOUTS[variant]]
    stages = plain_stages(layout, in_channels=in_channels, first=_conv, layer=_conv, floor=4)
    head = nn.Linear(layout[-1][-1], num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return initialise(StagedNetwork(stages=stages, head=head))


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
