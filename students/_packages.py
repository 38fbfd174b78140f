"""Networks of other packages by their name there: `timm:NAME` and `torchvision:NAME`."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from torch import nn

PACKAGES = ("timm", "torchvision")


def package_of(name: str) -> str | None:
    """Return the package that a name such as `timm:resnet18` asks, or None."""
    package, _, rest = name.partition(":")
    return package if package in PACKAGES and rest and not rest.endswith(".py") else None


def version(package: str) -> str:
    """Return the installed version of a package; raises ValueError where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(_missing(package)) from error


def builder(name: str) -> Callable[..., nn.Module]:
    """Return a function that builds the network that `package:NAME` names.

    It takes `num_classes`, `in_channels` and what the package's own function takes. Raises
    ValueError, in one line, for a package that is not installed and for an unknown name.
    """
    package, _, network = name.partition(":")
    try:
        found = importlib.import_module("timm" if package == "timm" else "torchvision.models")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            reason = f"{package} cannot be imported: {error}"
            raise ValueError(reason) from error
        raise ValueError(_missing(package)) from error
    except Exception as error:  # torchvision beside another torch fails in its own ways
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{package} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    known = found.list_models()
    if network not in known:
        raise ValueError(_unknown(package, network, list(known)))
    return _of_timm(found, network) if package == "timm" else _of_torchvision(found, network)


def _of_timm(timm: Any, network: str) -> Callable[..., nn.Module]:
    def build(num_classes: int, in_channels: int, **arguments: Any) -> nn.Module:
        made: nn.Module = timm.create_model(
            network, num_classes=num_classes, in_chans=in_channels, **arguments
        )
        return made

    return build


def _of_torchvision(models: Any, network: str) -> Callable[..., nn.Module]:
    def build(num_classes: int, in_channels: int, **arguments: Any) -> nn.Module:
        if in_channels != 3:
            raise ValueError(
                f"torchvision's networks take 3 channels, and the data has {in_channels}"
            )
        made: nn.Module = models.get_model(network, num_classes=num_classes, **arguments)
        return made

    return build


def _missing(package: str) -> str:
    return f"{package} is not installed: pip install {package}"


def _unknown(package: str, network: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(network, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {len(known)} others"
    return f"{package} has no network {network}: {hint}"
