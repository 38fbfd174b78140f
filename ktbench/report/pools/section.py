"""Section on pools of teachers: their answers over time and the fate of their workers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

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
from ktbench.report.pools.figure import POOLS_SHOWN, Timeline, timeline_figure
from ktbench.system.files import UnsuitableFileError, read_regular

_MOST_BYTES = 64 * 2**20
_LONGEST_S = 1e7
"""Longest life of a pool; far longer ones cannot be drawn."""
_LOSSES = ("leave", "dismissed")
_COLUMNS = [
    "pool", "teacher", "worker", "node", "answers", "seconds", "per_second",
    "joins", "losses", "wrong", "last",
]  # fmt: skip


_Second = Annotated[float, Field(ge=0, le=_LONGEST_S, allow_inf_nan=False)]
_Number = Annotated[int, Field(ge=0, lt=2**53)]


class _Event(BaseModel):
    second: _Second
    kind: str
    worker: str
    reason: str = ""


class _History(BaseModel):
    """A pool's file, as `ktbench.teacher.pool.history` writes it."""

    teacher: str
    started: Annotated[float, Field(allow_inf_nan=False)]
    seconds: _Second
    events: list[_Event]
    answers: list[tuple[_Number, _Number]]
    workers: list[tuple[_Number, _Number]]
    work: dict[str, tuple[_Number, _Second]] = {}
    dropped: _Number = 0

    @property
    def delivered(self) -> int:
        """Number of batches that trainings were given."""
        return sum(count for _, count in self.answers)

    def count(self, *kinds: str) -> int:
        """Number of events of some kinds."""
        return sum(event.kind in kinds for event in self.events)


def pools(analysis: Analysis) -> tuple[Section, ...]:
    """Build the section; nothing where no pool taught anything."""
    histories, unreadable = _read(analysis.results.path / "pool")
    if not histories and not unreadable:
        return ()
    lead = (
        "Teachers that ran on separate workers, which join and leave. Each batch that a training "
        "received is counted once. The students' weights are those of a live teacher, whatever "
        "happened to the workers."
    )
    parts: list[Part] = [Note(words, "warn") for words in unreadable]
    if histories:
        parts += [_figure(histories), _pool_table(histories), _worker_table(histories)]
    return (Section("pools", "Pools of teachers", lead, parts),)


def _read(folder: Path) -> tuple[dict[str, _History], list[str]]:
    """Read histories by file name, the earliest first, and list unreadable files."""
    histories: dict[str, _History] = {}
    unreadable = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_regular(path, _MOST_BYTES, follow=False)
            histories[path.stem] = _History.model_validate_json(content)
        except (OSError, UnsuitableFileError, ValidationError):
            unreadable.append(f"{path.name}: not a pool's history; it is left out.")
    ordered = sorted(histories.items(), key=lambda item: (item[1].started, item[0]))
    return dict(ordered), unreadable


# ---------------------------------------------------------------- over time


def _figure(histories: dict[str, _History]) -> Any:
    caption = (
        "Batches answered over time, and the number of workers. Marks: a worker joined (again, "
        "if it was restarted), or was lost, killed or dismissed."
    )
    if len(histories) > POOLS_SHOWN:
        caption += f" First {POOLS_SHOWN} of {len(histories)} pools."
    timelines = [_timeline(history) for history in list(histories.values())[:POOLS_SHOWN]]
    return timeline_figure(timelines, name="pools", caption=caption)


def _timeline(history: _History) -> Timeline:
    per_second = np.zeros(max(1, int(history.seconds) + 1))
    for second, count in history.answers:
        if 0 <= second < len(per_second):
            per_second[second] = count
    return Timeline(
        title=f"teacher {history.teacher}",
        seconds=history.seconds,
        answers=per_second,
        workers=[(float(second), count) for second, count in history.workers],
        joins=[e.second for e in history.events if e.kind == "join"],
        losses=[e.second for e in history.events if e.kind in _LOSSES],
    )


# ---------------------------------------------------------------- tables


def _pool_table(histories: dict[str, _History]) -> Table:
    rows: list[Row] = [
        {
            "pool": name,
            "teacher": history.teacher,
            "seconds": history.seconds,
            "batches": history.delivered,
            "per_second": history.delivered / history.seconds if history.seconds else 0.0,
            "most_workers": max((count for _, count in history.workers), default=0),
            "joins": history.count("join"),
            "losses": history.count(*_LOSSES),
            "refused": history.count("refused"),
            "wrong": history.count("failed"),
            "dropped": history.dropped,
            "poisoned": history.count("poisoned"),
        }
        for name, history in histories.items()
    ]
    columns = [
        Column("teacher", number=False),
        Column("open for", hint="seconds"),
        Column("batches", hint="received by trainings"),
        Column("per second", hint="over the whole time that the pool was open"),
        Column("workers", hint="most at once"),
        Column("joins"),
        Column("losses", hint="killed, gone or dismissed"),
        Column("refused", hint="workers that would compute other outputs"),
        Column("failures", hint="errors and wrong answers; another worker repeated them"),
        Column("second answers", hint="not used: another came first, or nobody was waiting"),
        Column("hopeless", hint="batches that no worker could answer"),
    ]
    shown = [
        [
            Box(row["teacher"]),
            Box(f"{row['seconds']:,.0f} s"),
            Box(f"{row['batches']:,}"),
            Box(f"{row['per_second']:.2f}"),
            Box(str(row["most_workers"])),
            Box(str(row["joins"])),
            Box(str(row["losses"]), "warn" if row["losses"] else ""),
            Box(str(row["refused"]), "warn" if row["refused"] else ""),
            Box(str(row["wrong"]), "warn" if row["wrong"] else ""),
            Box(str(row["dropped"])),
            Box(str(row["poisoned"]), "bad" if row["poisoned"] else ""),
        ]
        for row in rows[:ROWS_SHOWN]
    ]
    frame = pd.DataFrame(rows)
    return Table(
        "pools", "The pools, each counted from its first worker.", columns, shown, frame, len(rows)
    )


def _worker_table(histories: dict[str, _History]) -> Table:
    listed = [row for name, history in histories.items() for row in _workers(name, history)]
    listed.sort(key=lambda row: (row["pool"], -row["answers"], row["worker"]))
    frame = pd.DataFrame(listed, columns=_COLUMNS)
    columns = [
        Column("worker", number=False),
        Column("node", number=False),
        Column("batches"),
        Column("s per batch", hint="computing time, without waiting"),
        Column("rate", hint="batches per second of computing time"),
        Column("joins"),
        Column("losses"),
        Column("failures"),
        Column("last message", number=False),
    ]
    shown = [_worker_row(row) for row in rows_of(frame)[:ROWS_SHOWN]]
    caption = "The workers and their speed."
    return Table("pool-workers", caption, columns, shown, frame, total=len(frame))


def _workers(name: str, history: _History) -> list[Row]:
    kinds = Counter((event.worker, event.kind) for event in history.events)
    last = {e.worker: e for e in history.events if e.worker}
    nodes = {e.worker: e.reason.split(", process")[0] for e in history.events if e.kind == "join"}
    rows = []
    for worker in sorted({*history.work, *last}):
        answers, seconds = history.work.get(worker, (0, 0.0))
        event = last.get(worker)
        rows.append(
            {
                "pool": name,
                "teacher": history.teacher,
                "worker": worker,
                "node": nodes.get(worker, ""),
                "answers": answers,
                "seconds": seconds / answers if answers else np.nan,
                "per_second": answers / seconds if seconds else np.nan,
                "joins": kinds[worker, "join"],
                "losses": sum(kinds[worker, kind] for kind in _LOSSES),
                "wrong": kinds[worker, "failed"],
                "last": f"{event.kind} at {event.second:.0f} s: {event.reason}" if event else "",
            }
        )
    return rows


def _worker_row(row: Row) -> list[Box]:
    known = numbers.known(row["seconds"])
    last = str(row["last"])
    return [
        Box(row["worker"]),
        Box(row["node"]),
        Box(f"{row['answers']:,}"),
        Box(f"{row['seconds']:.3f}" if known else numbers.NOTHING),
        Box(f"{row['per_second']:.2f}" if known else numbers.NOTHING),
        Box(str(row["joins"])),
        Box(str(row["losses"])),
        Box(str(row["wrong"])),
        Box(last if len(last) <= 70 else last[:69] + "…", "muted", last),
    ]
