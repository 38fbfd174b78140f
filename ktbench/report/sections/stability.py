"""Section on whether devices agree on the order of deployments by latency."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from ktbench import stats
from ktbench.report import numbers
from ktbench.report.analysis import Analysis
from ktbench.report.document import (
    ROWS_SHOWN,
    Box,
    Column,
    Note,
    Part,
    Row,
    Section,
    Table,
    rows_of,
)
from ktbench.report.doubt import LEGEND, MARK

_SIDE = ["device", "origin", "threads"]
_ITEM = ["student", "export"]
_SAID = 3
"""Number of pairs of devices that are described in words."""
_BOUNDS = ["p50_ms", "p50_ms_low", "p50_ms_high"]


def stability(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing unless two devices measured the same deployments."""
    sides = _sides(_latencies(analysis))
    pairs, swaps = _compared(sides)
    if pairs.empty:
        return ()
    lead = (
        "Does the choice of a device change which deployment is faster? A deployment is a student "
        "in an export, ordered by median latency on each device, with the same number of threads "
        "and figures of the same origin. A pair swaps if both devices order it clearly and the "
        "orders are opposite; if the medians' intervals overlap, the pair is not clear."
    )
    parts: list[Part] = [Note(*_said(r)) for r in rows_of(pairs)[:_SAID]]
    parts.append(_agreement_table(pairs, sides))
    if len(swaps):
        parts.append(_swap_table(swaps))
    return (Section("stability", "Order on other devices", lead, parts),)


def _said(row: Row) -> tuple[str, str]:
    """A pair of devices in plain words, and the note's style."""
    count = row["deployments"]
    total = count * (count - 1) // 2
    close = f" ({row['unclear']} {'is' if row['unclear'] == 1 else 'are'} too close to tell)"
    pairs = f"of {numbers.count(total, 'pair')}"
    devices = (
        f"**{row['device']}** and **{row['other']}** ({numbers.count(row['threads'], 'thread')})"
    )
    words, kind = f"put {count} deployments in the same order: none {pairs} swaps", "good"
    if row["swapped"]:
        swaps = f"{row['swapped']} {pairs} {'swaps' if row['swapped'] == 1 else 'swap'}"
        words, kind = f"do not put {count} deployments in the same order: {swaps}", "warn"
    return f"{devices} {words}{close if row['unclear'] else ''}.", kind


def _latencies(analysis: Analysis) -> pd.DataFrame:
    """One row per deployment and side, of valid single-stream measurements.

    Figures of comparable measurements of a graph are joined to the median, within the widest
    bounds; of those that are not comparable, the latest stand.
    """
    measured = analysis.results.measurements
    owners = analysis.cells.set_index("key")["student"]
    measured = measured.assign(student=measured["cell_key"].map(owners))
    alone = (measured["scenario"] == "single_stream") & (measured["valid"] == True)  # noqa: E712
    measured = measured[alone & measured["student"].notna()].dropna(subset=_BOUNDS)
    # In the order of the matrix.
    order = {device.name: place for place, device in enumerate(analysis.results.lock.plan.devices)}
    measured = measured.assign(place=measured["device"].map(order))
    measured = measured.sort_values("place", kind="stable")
    by = [*_SIDE, *_ITEM]
    grouped = measured.groupby([*by, "comparability"], sort=False)
    frame = grouped.agg(
        p50_ms=("p50_ms", "median"),
        p50_ms_low=("p50_ms_low", "min"),
        p50_ms_high=("p50_ms_high", "max"),
        doubtful=("warnings", lambda texts: bool((texts != "").any())),
        started=("started", "max"),
    ).reset_index()
    latest = frame.sort_values("started", kind="stable").drop_duplicates(by, keep="last")
    return latest.sort_index().reset_index(drop=True)


Side = tuple[str, str, int]
"""Device, origin, threads."""


def _sides(frame: pd.DataFrame) -> dict[Side, pd.DataFrame]:
    return {
        (str(device), str(origin), int(str(threads))): own.set_index(_ITEM)[
            [*_BOUNDS, "doubtful"]
        ].astype(float)
        for (device, origin, threads), own in frame.groupby(_SIDE, sort=False)
    }


def _alike(sides: dict[Side, pd.DataFrame]) -> Iterator[tuple[Side, Side, pd.Index]]:
    """Pairs of devices whose figures may be compared, with two or more deployments in common."""
    for first, second in combinations(sides, 2):
        if first[0] != second[0] and first[1:] == second[1:]:
            items = sides[first].index.intersection(sides[second].index, sort=False)
            if len(items) > 1:
                yield first, second, items


def _compared(sides: dict[Side, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per pair of devices; one row per pair of deployments that swap."""
    pairs, swaps = [], []
    for first, second, items in _alike(sides):
        figures = [sides[side].loc[items] for side in (first, second)]
        agreement = stats.agreement(*(stats.ranked(*(f[b] for b in _BOUNDS)) for f in figures))
        names = {"device": first[0], "other": second[0], "origin": first[1], "threads": first[2]}
        counts = {"swapped": len(agreement.swapped), "unclear": agreement.unclear}
        tau = {"tau": agreement.tau, "tau_low": agreement.low, "tau_high": agreement.high}
        pairs.append({**names, "deployments": agreement.items, **tau, **counts})
        for i, j in agreement.swapped:
            quick, slow = (
                (i, j) if figures[0]["p50_ms"].iloc[i] < figures[0]["p50_ms"].iloc[j] else (j, i)
            )
            swaps.append({**names, **_swap(items, figures, quick, slow)})
    swapped = pd.DataFrame(swaps)
    if len(swapped):  # two students in one export first: that changes which to train
        swapped = swapped.sort_values("same_export", ascending=False, kind="stable")
    return pd.DataFrame(pairs), swapped


def _swap(items: pd.Index, figures: list[pd.DataFrame], quick: int, slow: int) -> Row:
    """The deployment that is quicker on the first device, and slower on the other."""
    (student, export), (rival, rival_export) = items[quick], items[slow]
    here, there = (figure["p50_ms"] for figure in figures)
    return {
        "quicker": student,
        "quicker_export": export,
        "slower": rival,
        "slower_export": rival_export,
        "same_export": export == rival_export,
        "doubtful": bool(sum(f["doubtful"].iloc[[quick, slow]].sum() for f in figures)),
        "ratio": here.iloc[slow] / here.iloc[quick],
        "other_ratio": there.iloc[slow] / there.iloc[quick],
    }


def _agreement_table(pairs: pd.DataFrame, sides: dict[Side, pd.DataFrame]) -> Table:
    rows = [
        [
            Box(r["device"]),
            Box(r["other"]),
            Box(r["origin"]),
            Box(str(r["threads"])),
            Box(str(r["deployments"])),
            Box(_two(r["tau"])),
            Box(f"[{_two(r['tau_low'])}, {_two(r['tau_high'])}]"),
            Box(str(r["swapped"])),
            Box(str(r["unclear"])),
        ]
        for r in rows_of(pairs)[:ROWS_SHOWN]
    ]
    columns = [
        Column("device", number=False),
        Column("other device", number=False),
        Column("figures", number=False),
        Column("threads"),
        Column("deployments"),
        Column("Kendall's τ", hint="τ-b: 1 the same order, −1 the opposite one"),
        Column("between", hint="with all unclear pairs counted as swapped, and as not swapped"),
        Column("pairs that swap"),
        Column("pairs not clear"),
    ]
    caption = "Agreement of two devices on the order of deployments by median latency."
    for (origin, threads), value in _concordances(sides).items():
        caption += (
            f" Over all devices ({origin}, {numbers.count(threads, 'thread')}), Kendall's W is "
            f"{_two(value)} (1: the same order everywhere; 0: no agreement)."
        )
    return Table("stability", caption, columns, rows, pairs, total=len(pairs))


def _concordances(sides: dict[Side, pd.DataFrame]) -> dict[tuple[str, int], float]:
    """Kendall's W of three or more devices, by origin and threads, over what all measured."""
    concordances: dict[tuple[str, int], float] = {}
    for kind in dict.fromkeys(side[1:] for side in sides):
        own = [frame["p50_ms"] for side, frame in sides.items() if side[1:] == kind]
        together = pd.concat(own, axis=1, join="inner")
        value = stats.concordance(together.to_numpy().T) if len(own) > 2 else None
        if value is not None:
            concordances[kind] = value
    return concordances


def _swap_table(swaps: pd.DataFrame) -> Table:
    rows = [
        [
            Box(f"{r['quicker']} as {r['quicker_export']}"),
            Box(f"{r['slower']} as {r['slower_export']}"),
            Box(r["device"]),
            Box(f"{numbers.ratio(r['ratio'])}{f' {MARK}' * r['doubtful']}"),
            Box(r["other"]),
            Box(f"{numbers.ratio(1 / r['other_ratio'])}{f' {MARK}' * r['doubtful']}"),
        ]
        for r in rows_of(swaps)[:ROWS_SHOWN]
    ]
    columns = [
        Column("deployment", number=False),
        Column("its rival", number=False),
        Column("quicker on", number=False),
        Column("by"),
        Column("slower on", number=False),
        Column("by"),
    ]
    caption = "Pairs that swap; pairs of students in the same export come first."
    caption += f" {LEGEND}" if swaps["doubtful"].any() else ""
    return Table("swaps", caption, columns, rows, swaps, total=len(swaps))


def _two(value: object) -> str:
    """Format with two decimals."""
    return f"{value:.2f}".replace("-", "−") if numbers.known(value) else numbers.NOTHING
