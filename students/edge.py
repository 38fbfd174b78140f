"""Students shaped for small devices: VGG made shallower, thinner, both, or separable.

The architectures of Sharma et al. on knowledge transfer to edge devices (IEEE EDGE 2018).
`vgg_shallow` has one convolution per VGG stage and one more; `vgg_thin` is VGG16 at a quarter of
its widths, which `width` multiplies further; `vgg_separable` is VGG16 with every 3 × 3 convolution
but the first made depthwise-separable. `vgg_shallow` pools after every convolution while there is
something to pool; the others' maps are those of `vgg.py`.

The classifier is hidden-hidden-classes on the mean of the last map. The study's `hidden` is 4096,
on images of 224 pixels; the default suits small images, and 0 leaves one linear layer.
"""

from __future__ import annotations

from torch import nn

from ktbench.students._contract import GlobalMean, StagedNetwork, Student, scaled
from ktbench.students._layers import (
    ConvLayer,
    conv_bn,
    initialise,
    plain_stages,
    separable,
)

VARIANTS = ("vgg_shallow", "vgg_thin", "vgg_thin_shallow", "vgg_separable")
DEEP = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
SHALLOW = ((64,), (128,), (256,), (512,), (512,), (512,))
THIN = 0.25


def build(
    variant: str, *, num_classes: int, in_channels: int, width: float = 1.0, hidden: int = 256
) -> Student:
    """A network of freshly initialised weights; `width` multiplies `hidden` too."""
    shallow, thin = "shallow" in variant, "thin" in variant
    layer: ConvLayer = separable if variant == "vgg_separable" else conv_bn
    multiplier = width * (THIN if thin else 1)
    layout = [[scaled(c, multiplier) for c in s] for s in (SHALLOW if shallow else DEEP)]
    stages = plain_stages(
        layout, in_channels=in_channels, first=conv_bn, layer=layer, floor=1 if shallow else 4
    )
    channels = layout[-1][-1]
    embed: list[nn.Module] = [GlobalMean()]
    if hidden:
        units = scaled(hidden, width)
        embed += [_linear(channels, units), nn.ReLU(), _linear(units, units), nn.ReLU()]
        channels = units
    head = nn.Linear(channels, num_classes)
    return initialise(StagedNetwork(stages=stages, embed=nn.Sequential(*embed), head=head))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear
