"""A comparison for a terminal and as Markdown."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktbench.compare.comparison import Comparison
from ktbench.compare.tables import Sheet, sheets, summary
from ktbench.records import printable

_WHOLE = 24
"""Characters of a column that is not broken where the terminal is narrow."""
_NARROWEST = 12
"""Characters that stay of one that is."""
_STYLES = {"regression": "bold red", "worse": "yellow", "better": "green", "same": "dim"}


def print_comparison(comparison: Comparison) -> None:
    """Print tables as wide as the terminal, and the summary last, where it is seen."""
    console = Console()
    _line(console, f"A {comparison.before}\nB {comparison.after}\n")
    for sheet in sheets(comparison):
        _line(console, sheet.title, "bold")
        console.print(_table(sheet), highlight=False)
        if sheet.note:
            _line(console, sheet.note, "dim")
        console.print()
    for line in summary(comparison):
        _line(console, line)


def _line(console: Console, words: str, style: str = "") -> None:
    console.print(Text(printable(words), style=style), soft_wrap=not console.is_terminal)


def _table(sheet: Sheet) -> Table:
    table = Table(box=None, pad_edge=False)
    # Where a method stands beside a student, and no export, it is the method that is broken.
    breaks_first = "export" in sheet.heads or "method" not in sheet.heads
    for number, head in enumerate(sheet.heads):
        last = number == len(sheet.heads) - 1
        side: Literal["left", "right"] = "left" if number < sheet.words or not head else "right"
        longest = max(len(row[number]) for row in sheet.rows)
        broken = last or longest > _WHOLE or head == "method"
        broken |= number == 0 and breaks_first
        table.add_column(
            head,
            header_style="bold",
            overflow="fold",
            justify=side,
            no_wrap=not broken,
            min_width=min(longest, _NARROWEST) if broken else longest,
        )
    for row in sheet.rows:
        style = _STYLES.get(row[-1].partition(";")[0], "")
        table.add_row(*(Text(printable(box), style=style) for box in row))
    return table


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown, for a pull request's comment."""
    lines = [
        "# ktbench compare",
        "",
        f"A `{_plain(str(comparison.before))}`, B `{_plain(str(comparison.after))}`",
        "",
    ]
    lines += [f"- {_plain(line.strip())}" for line in summary(comparison)]
    for sheet in sheets(comparison):
        lines += ["", f"## {sheet.title}", ""]
        lines.append("| " + " | ".join(head or " " for head in sheet.heads) + " |")
        lines.append(
            "|" + "".join("---|" if i < sheet.words else "---:|" for i, _ in enumerate(sheet.heads))
        )
        lines += ["| " + " | ".join(_cell(box) for box in row) + " |" for row in sheet.rows]
        lines += ["", sheet.note] if sheet.note else []
    return "\n".join(lines) + "\n"


def _plain(words: str) -> str:
    return printable(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(words: str) -> str:
    return _plain(words).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
