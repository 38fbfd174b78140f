"""Latencies of two folders side by side, from the raw samples of their measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ktbench.compare.comparison import Latency
from ktbench.compare.judging import Difference, unpaired, verdicts
from ktbench.records import Measurement
from ktbench.results import Results

_Name = tuple[str, str, str, str, int, str, int]
"""Student, export, device, origin, threads, scenario, batch."""


def latencies(before: Results, after: Results, rise: float) -> list[Latency]:
    """One row per student × export × device × threads × scenario that both have measured.

    The unit is a repeat, a process of its own: runs within one resemble each other. The ratio is
    that of the geometric means of the repeats' medians, its interval Welch's on their logarithms.
    `rise`: the share by which a latency may rise.
    """
    old, new = _measured(before), _measured(after)
    limit = float(np.log1p(rise))
    differences = {n: _difference(before, old[n], after, new[n], limit) for n in old if n in new}
    rows = [_row(name, d, old[name], new[name]) for name, d in differences.items()]
    judged = verdicts(list(differences.values()), limit)
    return [
        row if row.verdict == "cannot be judged" else replace(row, verdict=verdict)
        for row, verdict in zip(rows, judged, strict=True)
    ]


def _measured(results: Results) -> dict[_Name, Measurement]:
    """Pick one measurement per name: valid ones first, then the newest."""
    students = {key: result.cell.student.label for key, result in results.by_key.items()}
    by_name: dict[_Name, Measurement] = {}
    for m in sorted(results.all_measurements, key=lambda m: (m.validity.valid, m.started)):
        if m.cell_key not in students:
            continue
        spec = m.device
        name = (students[m.cell_key], m.export.label, spec.name, m.origin)
        by_name[(*name, m.threads, spec.scenario, m.batch)] = m
    return dict(sorted(by_name.items()))


def _difference(
    before: Results, old: Measurement, after: Results, new: Measurement, limit: float
) -> Difference:
    """Difference of minus the logarithms, so that more is better."""
    sides = [-np.log(_medians(side, m)) for side, m in ((before, old), (after, new))]
    if not (old.validity.valid and new.validity.valid):
        sides = [side.mean(keepdims=True) for side in sides]  # no interval, so no verdict
    return unpaired(list(sides[0]), list(sides[1]), limit)


def _medians(side: Results, measurement: Measurement) -> NDArray[np.float64]:
    """Median milliseconds of each repeat, or the overall median where the samples are missing."""
    table = side.samples(measurement)
    if table is None:
        return np.array([measurement.p50_ms.value])
    repeat = table["repeat"].to_numpy()
    seconds = table["seconds"].to_numpy()
    return np.array([1e3 * np.median(seconds[repeat == r]) for r in np.unique(repeat)])


def _row(name: _Name, d: Difference, old: Measurement, new: Measurement) -> Latency:
    notes = list(_notes(old, new))
    if d.p is None and not notes:
        notes = ["one repeat, or no samples"]
    student, export, device, origin, threads, scenario, _ = name
    return Latency(
        student=student,
        export=export,
        device=device,
        origin=origin,
        threads=threads,
        scenario=scenario,
        before_ms=old.p50_ms.value,
        after_ms=new.p50_ms.value,
        ratio=float(np.exp(-d.mean)),
        low=None if d.high is None else float(np.exp(-d.high)),
        high=None if d.low is None else float(np.exp(-d.low)),
        repeats_before=d.n_before,
        repeats_after=d.n_after,
        verdict="cannot be judged" if d.p is None else "no clear change",
        notes=tuple(notes),
        doubtful_before=_doubtful(old),
        doubtful_after=_doubtful(new),
    )


def _doubtful(measurement: Measurement) -> bool:
    return not measurement.validity.valid or bool(measurement.validity.warnings)


def _notes(old: Measurement, new: Measurement) -> Iterator[str]:
    for side, m in (("A", old), ("B", new)):
        if not m.validity.valid:
            yield f"invalid in {side}: {'; '.join(m.validity.reasons)}"
        if m.validity.warnings:
            yield f"doubtful in {side}: {'; '.join(m.validity.warnings)}"
    facts = {
        "runtime": [f"{m.runtime} {m.runtime_version}" for m in (old, new)],
        "provider": [m.provider for m in (old, new)],
        "governor": [str(m.state_before.get("governor", "–")) for m in (old, new)],
        "power mode": [str(m.state_before.get("power_mode", "–")) for m in (old, new)],
        "graph": [m.graph_key for m in (old, new)],
    }
    for fact, (was, now) in facts.items():
        if was != now:
            yield "another graph" if fact == "graph" else f"{fact} {was} → {now}"
    odd = sorted(
        k for k in old.board.keys() | new.board.keys() if old.board.get(k) != new.board.get(k)
    )
    if odd:
        yield f"the board's {', '.join(odd)} differ"
