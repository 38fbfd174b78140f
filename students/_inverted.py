"""Parts of the mobile families: TensorFlow's padding, and squeeze-and-excite."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """A convolution whose map is the input's over `stride`, rounded up, as TensorFlow pads it.

    With a stride, the padding depends on the size, and an odd pixel of it goes to the right and
    below. An exported graph holds the padding of its own size. `padding` only says that there is
    some: whoever folds a normalisation into the first layer asks for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        sizes = zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        high, wide = (max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sizes)
        left, top = wide // 2, high // 2
        padding: int | tuple[int, int] = (top, left)
        if high % 2 or wide % 2:
            x = functional.pad(x, (left, wide - left, top, high - top))
            padding = 0
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )


class SqueezeExcite(nn.Module):
    """Gates every channel by what its mean over the map says: (B, C, H, W) to the same shape.

    Hu et al., arXiv 1709.01507. `gate` maps to [0, 1].
    """

    def __init__(self, channels: int, squeezed: int, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        mean = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.excite(functional.relu(self.squeeze(mean))))


def divisible(channels: float, by: int = 8) -> int:
    """Return the nearest multiple of `by`, not below nine tenths of the number (MobileNetV2)."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by
