"""What `ktbench plan` and `ktbench run` say of a plan's data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktbench.data import DataInfo
from ktbench.data.image_source import shown

_MOST_CLASSES = 12
"""Classes that are listed one by one."""


def data_notes(data: Sequence[DataInfo]) -> list[str]:
    """What is left out of the data and which classes are short of images, a line each."""
    return [note for info in data if info.contents for note in info.contents.notes]


def data_as_json(info: DataInfo) -> dict[str, Any]:
    """A data set for programs: every class with its images in each split."""
    contents = info.contents
    assert contents is not None  # `describe` always has them
    return {
        "name": contents.name,
        "shape": list(info.shape),
        "classes": list(contents.classes),
        "counts": {split: list(counts) for split, counts in contents.counts.items()},
        "about": contents.about,
        "notes": list(contents.notes),
    }


def data_title(info: DataInfo) -> str:
    """Name, number of classes and shape of a data set, on one line."""
    contents = info.contents
    assert contents is not None
    about = f"; {contents.about}" if contents.about else ""
    shape = "×".join(map(str, info.shape))
    return f"{shown(contents.name)}: {info.num_classes:,} classes, images {shape}{about}"


def data_rows(info: DataInfo) -> list[list[str]]:
    """A row per class, the middle ones as one row where there are many, and the sum.

    Columns: class, then images in each split.
    """
    contents = info.contents
    assert contents is not None
    columns = list(contents.counts.values())
    rows = [
        [shown(name), *(f"{counts[number]:,}" for counts in columns)]
        for number, name in enumerate(contents.classes)
    ]
    if len(rows) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        middle = [counts[half:-half] for counts in columns]
        ranges = [_range(min(counts), max(counts)) for counts in middle]
        rows[half:-half] = [[f"… {len(middle[0]):,} more", *ranges]]
    return [*rows, ["all", *(f"{sum(counts):,}" for counts in columns)]]


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
