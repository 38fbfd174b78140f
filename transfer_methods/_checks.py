"""Checks of settings: each raises ValueError with one line that names the setting."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(
    config: object,
    *names: str,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """These settings are finite numbers above `above`, at least `least`, at most `most`."""
    for name in names:
        value = getattr(config, name)
        expected = "a number" + _range(above, least, most)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be {expected}, not {value!r}")
        if not math.isfinite(value) or _outside(value, above, least, most):
            raise ValueError(f"{name} must be {expected}, not {value!r}")


def whole(config: object, *names: str, least: int) -> None:
    """These settings are whole numbers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def choice(config: object, name: str, options: Sequence[str]) -> None:
    """This setting is one of the options."""
    value = getattr(config, name)
    if value not in options:
        raise ValueError(f"{name} must be {' or '.join(options)}, not {value!r}")


def flag(config: object, *names: str) -> None:
    """These settings are true or false."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {value!r}")


def _range(above: float | None, least: float | None, most: float | None) -> str:
    parts = [] if above is None else [f"above {above:g}"]
    parts += [] if least is None else [f"of at least {least:g}"]
    parts += [] if most is None else [f"of at most {most:g}"]
    return "".join(f" {part}" if i == 0 else f" and {part}" for i, part in enumerate(parts))


def _outside(value: float, above: float | None, least: float | None, most: float | None) -> bool:
    return (
        (above is not None and value <= above)
        or (least is not None and value < least)
        or (most is not None and value > most)
    )
