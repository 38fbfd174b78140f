"""In which settings and versions two results folders differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ktbench.compare.comparison import Setting
from ktbench.records import Cell, Plan, canonical_json
from ktbench.results import Results

_ABSENT = "–"


def settings(before: Results, after: Results) -> list[Setting]:
    """Of the usual cell's data, training and numeric settings, of teachers, exports and devices."""
    return _differing(*(dict(_asked(side.lock.plan)) for side in (before, after)))


def versions(before: Results, after: Results) -> list[Setting]:
    """Of packages, the machine and the data's bytes, as of each folder's last run."""
    return _differing(*(dict(_environment(side)) for side in (before, after)))


def _differing(old: dict[str, str], new: dict[str, str]) -> list[Setting]:
    return [
        Setting(name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _asked(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.cells:
        usual = Counter((c.data, c.train, c.numeric) for c in plan.cells).most_common(1)[0][0]
        for part, name in zip(usual, ("data", "train", "numeric"), strict=True):
            yield from _flat(part.model_dump(mode="json"), name)
    windows = Counter(c.distill for c in plan.cells if c.teacher is not None)
    if windows and (window := windows.most_common(1)[0][0]) is not None:
        yield from _flat(window.model_dump(mode="json"), "distill")
    for teacher in plan.teachers:
        yield from _flat(_teacher(teacher.cell), f"teacher {teacher.name}")
    yield "exports", ", ".join(e.label for e in plan.exports)
    for device in plan.devices:
        yield from _flat(device.model_dump(mode="json"), f"device {device.name}")


def _teacher(cell: Cell) -> dict[str, Any]:
    parts = {"data", "train", "numeric", "seed"}
    return {"student": cell.student.label, **cell.model_dump(mode="json", include=parts)}


def _environment(side: Results) -> Iterator[tuple[str, str]]:
    p = side.lock.provenance
    for name in ("ktbench", "commit", "python", "processor", "cores", "system"):
        yield name, str(getattr(p, name))
    yield from sorted(p.versions.items())
    yield "data's digest", side.lock.data_digest or _ABSENT


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}")
    else:
        yield name, value if isinstance(value, str) else canonical_json(value)
