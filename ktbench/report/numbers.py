"""Formatting of figures, the same everywhere in the report."""

from __future__ import annotations

import math

NOTHING = "–"
"""Placeholder for a missing figure."""


def known(value: object) -> bool:
    """True unless a value is None, NaN or pandas' NA."""
    if value is None:
        return False
    try:
        return not math.isnan(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def percent(share: object) -> str:
    """`92.4 %` of a share in [0, 1]."""
    return f"{100 * _number(share):.1f} %" if known(share) else NOTHING


def significant(value: object, digits: int = 3) -> str:
    """Three significant digits without an exponent: `0.0123`, `1.23`, `123`, `12,300`."""
    if not known(value):
        return NOTHING
    number = _number(value)
    if number == 0 or not math.isfinite(number):
        return "0" if number == 0 else NOTHING
    number = float(f"{number:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{min(places, 9)}f}".replace("-", "−")


def small(value: object) -> str:
    """Two significant digits, as a power of ten below a thousandth: `0.31`, `1.2e-6`."""
    if known(value) and 0 < abs(_number(value)) < 1e-3:
        mantissa, _, exponent = f"{_number(value):.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return significant(value, 2)


def milliseconds(value: object) -> str:
    """Three significant digits, without the unit: it stands in the column's head."""
    return significant(value)


def seconds(value: object) -> str:
    """`0.42 s`, `12.3 s`, `4.1 min`, `2.0 h`."""
    if not known(value):
        return NOTHING
    number = _number(value)
    if number >= 5400:
        return f"{number / 3600:.1f} h"
    if number >= 90:
        return f"{number / 60:.1f} min"
    return f"{significant(number)} s"


def scaled(value: object) -> str:
    """`1.23 G` with a decimal prefix and three significant digits."""
    if not known(value):
        return NOTHING
    number = _number(value)
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= limit:
            return f"{significant(number / limit)} {prefix}"
    return f"{significant(number / 1e3)} k" if abs(number) >= 1e3 else significant(number)


def size(number_of_bytes: object) -> str:
    """`45.1 kB`, decimal as file managers and data sheets have it."""
    if not known(number_of_bytes):
        return NOTHING
    shown = scaled(number_of_bytes)
    return f"{shown}B" if " " in shown else f"{shown} B"


def ratio(value: object) -> str:
    """`1.85×`."""
    return f"{factor(value)}×" if known(value) else NOTHING


def factor(value: object) -> str:
    """A speedup without its sign, two decimals where they are known: `1.85`, `0.42`, `12.3`."""
    if not known(value):
        return NOTHING
    number = _number(value)
    return (
        f"{number:.2f}" if 0.095 <= number < 9.995 else significant(number, 3 if number > 1 else 2)
    )


def speedup(value: object, low: object, high: object) -> str:
    """`1.85× [1.20, 2.90]`, without bounds where there are none."""
    if not known(value):
        return NOTHING
    bounds = f" [{factor(low)}, {factor(high)}]" if known(low) and known(high) else ""
    return f"{factor(value)}×{bounds}"


def count(number: int, noun: str) -> str:
    """`1 cell`, `12 cells`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
