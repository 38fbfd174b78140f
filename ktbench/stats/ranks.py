"""Rank agreement: do devices put the same items in the same order?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktbench.stats.intervals import Floats


@dataclass(frozen=True)
class Agreement:
    """Agreement of two orders of the same items.

    `tau` is Kendall's tau-b, None below two items or where one side ties all of them. `low` and
    `high` bound tau by what is not clear: pairs whose bounds overlap on either side are counted
    all against, and all for.
    """

    tau: float | None
    low: float | None
    high: float | None
    items: int
    swapped: tuple[tuple[int, int], ...]
    """Pairs of items (i, j), i < j, that are clearly ordered on both sides, and opposite."""
    unclear: int
    """Pairs whose order is not clear on both sides."""


@dataclass(frozen=True)
class Ranked:
    """Figures of the same items on one device, each with its bounds; (K,) arrays without NaN."""

    value: Floats
    low: Floats
    high: Floats


def ranked(value: ArrayLike, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Ranked:
    """Figures as arrays; without bounds they count as exact.

    Raises ValueError where they differ in length or are not finite.
    """
    figures = np.asarray(value, dtype=float)
    bounds = [figures if b is None else np.asarray(b, dtype=float) for b in (low, high)]
    for each in (figures, *bounds):
        if each.shape != figures.shape or not np.isfinite(each).all():
            raise ValueError("figures to rank are finite, and have bounds each")
    return Ranked(figures, *bounds)


def agreement(first: Ranked, second: Ranked) -> Agreement:
    """Compare two devices' orders of the same items; raises ValueError for other items."""
    count = len(first.value)
    if len(second.value) != count:
        raise ValueError("both devices need the same items")
    pairs = list(combinations(range(count), 2))
    if not pairs:
        return Agreement(None, None, None, count, (), 0)
    rows, columns = (np.array(side) for side in zip(*pairs, strict=True))
    product = _order(first, rows, columns) * _order(second, rows, columns)
    unclear = int((product == 0).sum())
    balance = int(product.sum())
    return Agreement(
        _tau(first.value, second.value),
        (balance - unclear) / len(pairs),
        (balance + unclear) / len(pairs),
        count,
        tuple(pair for pair, sign in zip(pairs, product, strict=True) if sign < 0),
        unclear,
    )


def _order(one: Ranked, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """1 where the first item of a pair is clearly lower, -1 where it is higher, 0 unclear."""
    lower = one.high[rows] < one.low[columns]
    higher = one.low[rows] > one.high[columns]
    order: Floats = lower.astype(np.float64) - higher
    return order


def _tau(first: Floats, second: Floats) -> float | None:
    from scipy.stats import kendalltau  # half a second, which few reports need

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(kendalltau(first, second).statistic)


def concordance(values: ArrayLike) -> float | None:
    """Kendall's W of several devices' orders: 1 all the same, 0 no agreement; ties corrected.

    values (devices, items) without NaN. None below two devices or items, or where all tie.
    """
    from scipy.stats import rankdata

    table = np.asarray(values, dtype=float)
    devices, items = table.shape
    if devices < 2 or items < 2:
        return None
    ranks = rankdata(table, axis=1)
    squares = ((ranks.sum(axis=0) - devices * (items + 1) / 2) ** 2).sum()
    ties = sum(
        float((counts**3 - counts).sum())
        for counts in (np.unique(row, return_counts=True)[1] for row in table)
    )
    whole = devices**2 * (items**3 - items) - devices * ties
    return None if whole <= 0 else float(12 * squares / whole)
