"""What boards answer to the test set, beside what the host's runtime answers."""

from __future__ import annotations

import pandas as pd

from ktbench.report import numbers
from ktbench.report.analysis import Analysis, by_origin
from ktbench.report.document import ROWS_SHOWN, Box, Column, Part, Row, Table, rows_of

_FIGURES = {
    "board_accuracy": "accuracy there",
    "board_difference": "difference, points",
    "board_agreement": "agreement with torch",
}


def on_board(analysis: Analysis) -> list[Part]:
    """A row per artifact that ran the test set on a board; nothing where none did."""
    found = _answers(analysis)
    if found.empty:
        return []
    origins = list(dict.fromkeys(found["origin"]))
    heads = ["device", "student", "method", "export"]
    columns = [Column(head, number=False) for head in heads]
    columns += [Column("images"), Column("accuracy here")]
    columns += [Column(f"{t} ({origin})") for origin in origins for t in _FIGURES.values()]
    columns.append(Column("valid", number=False))
    rows = [_row(r, heads, origins) for r in rows_of(found.head(ROWS_SHOWN))]
    caption = (
        "The test set on the board: the accuracy of the same file there and in this machine's "
        "runtime, and the share of images on which the board names torch's class."
    )
    return [Table("on-board", caption, columns, rows, by_origin(found), total=len(found))]


def _answers(analysis: Analysis) -> pd.DataFrame:
    """One row per artifact, device and provider: thread counts share their answers."""
    measured = analysis.results.measurements
    found = measured[measured["board_accuracy"].notna()]
    cells = analysis.cells.rename(columns={"key": "cell_key"})
    here = analysis.results.artifacts.rename(
        columns={"key": "cell_key", "test_accuracy": "accuracy_here"}
    )
    found = found.merge(cells[["cell_key", "student", "method"]], on="cell_key", how="left")
    keys = ["cell_key", "export"]
    found = found.merge(here[[*keys, "accuracy_here"]], on=keys, how="left")
    found["board_difference"] = found["board_accuracy"] - found["accuracy_here"]
    columns = ["device", "student", "method", "export", "provider", "origin", "cell_key"]
    columns += ["board_images", "accuracy_here", *_FIGURES, "valid"]
    return found[columns].drop_duplicates(["device", "provider", *keys])


def _row(row: Row, heads: list[str], origins: list[str]) -> list[Box]:
    boxes = [Box(str(row[head])) for head in heads]
    boxes += [Box(f"{int(row['board_images']):,}"), Box(numbers.percent(row["accuracy_here"]))]
    for origin in origins:
        if row["origin"] != origin:
            boxes += [Box("", "muted")] * len(_FIGURES)
            continue
        boxes += [
            Box(numbers.percent(row["board_accuracy"])),
            Box(numbers.points(row["board_difference"])),
            Box(numbers.percent(row["board_agreement"])),
        ]
    return [*boxes, Box("yes", "good") if row["valid"] else Box("no", "bad")]
