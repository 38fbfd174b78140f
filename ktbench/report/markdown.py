"""The report as Markdown, for reading beside the code."""

from __future__ import annotations

from dataclasses import replace

from ktbench.report.document import (
    ROWS_SHOWN,
    Card,
    Cards,
    Figure,
    Note,
    Page,
    Part,
    Section,
    Table,
)


def markdown(page: Page) -> str:
    """One document; its figures are links into `figures/`."""
    lines = [f"# {_plain(page.title)}", "", _plain(page.subtitle), "", "## Verdict", ""]
    lines += [f"- {_plain(sentence)}" for sentence in page.verdict]
    lines += ["", " · ".join(f"**{figure}** {what}" for figure, what, _ in page.tiles), ""]
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""] if section.anchor != "verdict" else []
    lines += [section.lead, ""] if section.lead else []
    for part in section.parts:
        lines += [*_part(part), ""]
    return lines


def _part(part: Part) -> list[str]:
    if isinstance(part, Note):
        return [_plain(part.text)]
    if isinstance(part, Figure):
        alternative = _plain(part.alternative).replace("[", "(").replace("]", ")")
        return [f"![{alternative}](figures/{part.name}.svg)", "", f"*{_plain(part.caption)}*"]
    if isinstance(part, Cards):
        return [line for card in part.cards for line in _card(card)]
    return _table(part)


def _card(card: Card) -> list[str]:
    lines = [f"**{_plain(card.title)}**", ""]
    lines += [f"- {_plain(name)}: {_plain(value)}" for name, value in card.facts]
    lines += [f"- {_plain(note.text)}" for note in card.notes]
    return [*lines, ""]


def _table(table: Table) -> list[str]:
    if not table.rows:
        return [_plain(table.caption), "", "(no rows)"]
    lines = [_plain(table.caption), ""]
    lines.append("| " + " | ".join(_cell(column.title) for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if c.number else "---" for c in table.columns) + "|")
    shown = replace(table, rows=table.rows[:ROWS_SHOWN])  # the page can scroll and filter more
    lines += ["| " + " | ".join(_cell(box.text) for box in row) + " |" for row in shown.rows]
    return lines + (["", _plain(shown.left_out)] if shown.left_out else [])


def _plain(words: str) -> str:
    """Words that cannot be taken for markup of HTML; `**bold**` stays."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(words: str) -> str:
    return _plain(words).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") or " "
