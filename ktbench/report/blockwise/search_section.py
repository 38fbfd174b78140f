"""Searches over a teacher's blocks: each network as assembled and, where it was run, finished."""

from __future__ import annotations

from collections import Counter

import pandas as pd
from pydantic import ValidationError

from ktbench.records import BlockSearch, SoughtNetwork, printable
from ktbench.report import numbers, scores
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
            search = BlockSearch.model_validate_json(read_regular(path, _MOST_BYTES, follow=False))
        except (OSError, UnsuitableFileError, ValidationError):
            words = (
                f"{printable(path.name)}: not a search's record; the next search makes it again."
            )
            parts.append(Note(words, "warn"))
            continue
        if search.teacher in names:
            parts += _parts(analysis, search, _name(search, parts))
    return parts


def _name(search: BlockSearch, before: list[Part]) -> str:
    """Name for the files of a search; its key is added where the rest is taken."""
    name = f"search-{search.by}" + (f"-{search.device.name}" if search.device else "")
    taken = {part.name for part in before if isinstance(part, Table)}
    return f"{name}-{search.key}" if name in taken else name


def _parts(analysis: Analysis, search: BlockSearch, name: str) -> list[Part]:
    frame = _frame(analysis, search)
    panels = [("test", "test accuracy, as assembled")]
    finished = frame["finished"].notna().any()
    if finished:
        panels.append(("finished", "test accuracy, finished"))
    axis = f"{_AXES[search.by]}, of the teacher's"
    caption = (
        f"Blocks of {search.teacher} chosen by {search.by}: one replacement per block, or the "
        "teacher's own, against one replacement everywhere. Dotted: the teacher. Choices were made "
        "on the validation set."
    )
    drawn = search_figure(frame, panels, search.teacher_test, axis=axis, name=name, caption=caption)
    notes: list[Part] = [Note(line, "warn") for line in search.notes]
    if search.device is not None:
        where = f"Latencies {search.origin} on {search.device.name}, {search.runtime}."
        notes.insert(0, Note(where, "muted"))
    return [drawn, _table(search, frame, name), *notes]


def _frame(analysis: Analysis, search: BlockSearch) -> pd.DataFrame:
    """A row per network; `finished` is the best method's by validation, the mean over seeds."""
    cells = analysis.cells
    groups = cells[cells["accuracy"].notna()].groupby(["student", "label"])
    means = groups[["accuracy", "validation"]].mean().reset_index()
    best = means.sort_values("validation").drop_duplicates("student", keep="last")
    by_student = {row["student"]: row for row in rows_of(best)}
    return pd.DataFrame([_row(search, n, by_student) for n in search.networks])


def _row(search: BlockSearch, network: SoughtNetwork, finished: dict[str, Row]) -> Row:
    own = finished.get(network.student.label)
    measured = network.measured_ms
    return {
        "kind": network.kind,
        "name": network.name,
        "student": network.student.label,
        "share": network.cost / search.teacher_cost,
        "cost": network.cost,
        "parameters": network.parameters,
        "validation": network.validation,
        "test": network.test,
        "finished": own["accuracy"] if own else float("nan"),
        "method": own["label"] if own else "",
        "measured_ms": measured.value if measured else float("nan"),
        "blocks": ", ".join(f"{n} {label}" for label, n in Counter(network.choice).most_common()),
    }


def _table(search: BlockSearch, frame: pd.DataFrame, name: str) -> Table:
    timed = search.teacher_ms is not None
    columns = [
        Column("network", number=False),
        Column(_AXES[search.by], hint="of the teacher's"),
        Column("parameters"),
        Column("validation", hint="as assembled; chosen by it"),
        Column("test", hint="as assembled"),
        Column("finished", hint="test accuracy"),
        Column("finished by", number=False),
        *([Column("measured, ms", hint="the whole network, median")] if timed else []),
        Column("blocks", number=False),
    ]
    rows = [_boxes(row, timed) for row in rows_of(frame)[:ROWS_SHOWN]]
    if timed and search.teacher_ms is not None:
        caption = f"What the search found; the teacher takes {search.teacher_ms.value:.3g} ms."
    else:
        caption = "What the search found; nothing was trained for it."
    return Table(name, caption, columns, rows, frame, total=len(frame))


def _boxes(row: Row, timed: bool) -> list[Box]:
    kind = "muted" if row["kind"] == "uniform" else ""
    label = f"{row['name']} everywhere" if row["kind"] == "uniform" else row["name"]
    finished = scores.figure(row["finished"]) if numbers.known(row["finished"]) else "–"
    return [
        Box(label, kind),
        Box(numbers.percent(row["share"])),
        Box(numbers.scaled(row["parameters"])),
        Box(scores.figure(row["validation"])),
        Box(scores.figure(row["test"])),
        Box(finished),
        Box(row["method"]),
        *([Box(f"{row['measured_ms']:.3g}")] if timed else []),
        Box(row["blocks"]),
    ]
