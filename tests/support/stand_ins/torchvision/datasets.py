"""See the package."""

from torchvision._names import any_name as __getattr__  # noqa: F401
