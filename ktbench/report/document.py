"""Parts of a report before any markup: sections of text, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

ROWS_SHOWN = 40
"""Most rows of a table on the page; its CSV file has all."""


@dataclass(frozen=True)
class Box:
    """A cell of a table; `kind` is a style (gain, loss, none, muted, bad, warn, good)."""

    text: str
    kind: str = ""
    hint: str = ""
    opens: str = ""
    """Key of the cell whose details a click opens."""


@dataclass(frozen=True)
class Column:
    """A column's head; `number` aligns it to the right."""

    title: str
    number: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page with the frame that its CSV file holds."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Box]]
    frame: pd.DataFrame
    total: int = 0
    """Number of all rows, where only the first are shown."""
    more: str = ""
    """Sentence below the table where something was left out."""
    anchored: bool = False
    """True where each row is the anchor of its cell's address, for pages without scripts."""

    @property
    def left_out(self) -> str:
        """Sentence on rows that are not shown; empty where all are."""
        if self.more:
            return self.more
        if self.total > len(self.rows):
            return f"First {len(self.rows)} of {self.total:,} rows; all in tables/{self.name}.csv."
        return ""


@dataclass(frozen=True)
class Figure:
    """A drawing, in both formats."""

    name: str
    caption: str
    alternative: str
    """Says what the figure shows to those who cannot see it."""
    svg: bytes
    png: bytes
    width: int
    """Natural width in CSS pixels."""


@dataclass(frozen=True)
class Note:
    """A paragraph; `kind` is a style (warn, bad, muted)."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Card:
    """Facts under a title."""

    title: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[Note] = ()


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: Sequence[Card]


Part = Table | Figure | Note | Cards


@dataclass(frozen=True)
class Section:
    """A part of the page that its navigation names."""

    anchor: str
    title: str
    lead: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    verdict: Sequence[str]
    tiles: Sequence[tuple[str, str, str]]
    """(figure, what it is, style)."""
    sections: Sequence[Section] = field(default_factory=tuple)
    details: dict[str, Any] = field(default_factory=dict)
    """Result of `cell_details.page_data`."""

    @property
    def tables(self) -> list[Table]:
        """Every table of the page."""
        return [p for s in self.sections for p in s.parts if isinstance(p, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Every figure of the page."""
        return [p for s in self.sections for p in s.parts if isinstance(p, Figure)]


Row = dict[str, Any]
"""A row of a frame, by column."""


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame, in order."""
    rows: list[Row] = frame.to_dict("records")  # type: ignore[assignment]
    return rows
