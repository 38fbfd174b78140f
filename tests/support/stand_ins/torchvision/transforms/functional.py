"""See the package."""

from enum import Enum

from torchvision._names import any_name as __getattr__  # noqa: F401


class InterpolationMode(Enum):
    """The names that timm maps."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
