"""Tables and lines, as the commands print them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ktbench.records import printable

if TYPE_CHECKING:
    from ktbench.data import DataInfo


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = False,
    whole: Collection[str] = (),
) -> None:
    """Print a table.

    `numbers`: every column but the first holds figures, and is aligned right. `whole`: columns
    that are not broken on a narrow terminal, as the first never is.
    """
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if numbers and i else "left"
        unbroken = not i or column in whole
        table.add_column(
            printable(column), header_style="bold", overflow="fold", justify=side, no_wrap=unbroken
        )
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(emoji=False, markup=False)  # a name's `:key:` or `[x]` is text
    # Not the table's own title, which is broken to the table's width.
    console.print(Text(printable(title), style="bold"), soft_wrap=not console.is_terminal)
    console.print(table, highlight=False)


def print_line(text: str) -> None:
    """Print a line that a terminal breaks between words, and nothing else breaks."""
    console = Console()
    console.print(printable(text), highlight=False, markup=False, soft_wrap=not console.is_terminal)


def data_notes(data: Sequence[DataInfo]) -> list[str]:
    """List what is left out of the data and which classes are short of images, a line each."""
    return [note for info in data if info.contents for note in info.contents.notes]
