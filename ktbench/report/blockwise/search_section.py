"""Searches over a teacher's blocks: each network as assembled and, where it was run, finished."""

from __future__ import annotations

from collections import Counter

import pandas as pd
from pydantic import ValidationError

from ktbench.records import BlockSearch, SoughtNetwork, printable
from ktbench.report import numbers
from ktbench.report.analysis import Analysis
from ktbench.report.blockwise.search_figure import search_figure
from ktbench.report.document import ROWS_SHOWN, Box, Column, Note, Part, Row, Table, rows_of
from ktbench.system.files import UnsuitableFileError, read_regular

_MOST_BYTES = 32 * 2**20
_AXES = {"parameters": "parameters", "bytes": "size", "latency": "predicted latency"}


def searches(analysis: Analysis) -> list[Part]:
    """Figure and table of every search whose teacher the matrix still has."""
    plan = analysis.results.lock.plan
    names = {cell.start.teacher.name for cell in plan.cells if cell.start}
    parts: list[Part] = []
    for path in sorted((analysis.results.path / "blocks").glob("search-*.json")):
        try:
            found = BlockSearch.model_validate_json(read_regular(path, _MOST_BYTES, follow=False))
        except (OSError, UnsuitableFileError, ValidationError):
            words = (
                f"{printable(path.name)}: not a search's record; the next search makes it again."
            )
            parts.append(Note(words, "warn"))
            continue
        if found.teacher in names:
            parts += _parts(analysis, found, _name(found, parts))
    return parts


def _name(found: BlockSearch, before: list[Part]) -> str:
    """Of the files of a search: its key is in it where the rest is taken."""
    name = f"search-{found.by}" + (f"-{found.device.name}" if found.device else "")
    taken = {part.name for part in before if isinstance(part, Table)}
    return f"{name}-{found.key}" if name in taken else name


def _parts(analysis: Analysis, found: BlockSearch, name: str) -> list[Part]:
    frame = _frame(analysis, found)
    panels = [("test", "test accuracy, as assembled")]
    finished = frame["finished"].notna().any()
    if finished:
        panels.append(("finished", "test accuracy, finished"))
    axis = f"{_AXES[found.by]}, of the teacher's"
    caption = (
        f"Blocks of {found.teacher} chosen by {found.by}: one replacement per block, or the "
        "teacher's own, against one replacement everywhere. Dotted: the teacher. Choices were made "
        "on the validation set."
    )
    drawn = search_figure(frame, panels, found.teacher_test, axis=axis, name=name, caption=caption)
    notes: list[Part] = [Note(line, "warn") for line in found.notes]
    if found.device is not None:
        where = f"Latencies {found.origin} on {found.device.name}, {found.runtime}."
        notes.insert(0, Note(where, "muted"))
    return [drawn, _table(found, frame, name), *notes]


def _frame(analysis: Analysis, found: BlockSearch) -> pd.DataFrame:
    """A row per network; `finished` is the best method's by validation, the mean over seeds."""
    cells = analysis.cells
    groups = cells[cells["accuracy"].notna()].groupby(["student", "label"])
    means = groups[["accuracy", "validation"]].mean().reset_index()
    best = means.sort_values("validation").drop_duplicates("student", keep="last")
    by_student = {row["student"]: row for row in rows_of(best)}
    return pd.DataFrame([_row(found, n, by_student) for n in found.networks])


def _row(found: BlockSearch, network: SoughtNetwork, finished: dict[str, Row]) -> Row:
    own = finished.get(network.student.label)
    measured = network.measured_ms
    return {
        "kind": network.kind,
        "name": network.name,
        "student": network.student.label,
        "share": network.cost / found.teacher_cost,
        "cost": network.cost,
        "parameters": network.parameters,
        "validation": network.validation,
        "test": network.test,
        "finished": own["accuracy"] if own else float("nan"),
        "method": own["label"] if own else "",
        "measured_ms": measured.value if measured else float("nan"),
        "blocks": ", ".join(f"{n} {label}" for label, n in Counter(network.choice).most_common()),
    }


def _table(found: BlockSearch, frame: pd.DataFrame, name: str) -> Table:
    timed = found.teacher_ms is not None
    columns = [
        Column("network", number=False),
        Column(_AXES[found.by], hint="of the teacher's"),
        Column("parameters"),
        Column("validation", hint="as assembled; chosen by it"),
        Column("test", hint="as assembled"),
        Column("finished", hint="test accuracy"),
        Column("finished by", number=False),
        *([Column("measured, ms", hint="the whole network, median")] if timed else []),
        Column("blocks", number=False),
    ]
    rows = [_boxes(row, timed) for row in rows_of(frame)[:ROWS_SHOWN]]
    if timed and found.teacher_ms is not None:
        caption = f"What the search found; the teacher takes {found.teacher_ms.value:.3g} ms."
    else:
        caption = "What the search found; nothing was trained for it."
    return Table(name, caption, columns, rows, frame, total=len(frame))


def _boxes(row: Row, timed: bool) -> list[Box]:
    kind = "muted" if row["kind"] == "uniform" else ""
    label = f"{row['name']} everywhere" if row["kind"] == "uniform" else row["name"]
    finished = numbers.percent(row["finished"]) if numbers.known(row["finished"]) else "–"
    return [
        Box(label, kind),
        Box(numbers.percent(row["share"])),
        Box(numbers.scaled(row["parameters"])),
        Box(numbers.percent(row["validation"])),
        Box(numbers.percent(row["test"])),
        Box(finished),
        Box(row["method"]),
        *([Box(f"{row['measured_ms']:.3g}")] if timed else []),
        Box(row["blocks"]),
    ]
