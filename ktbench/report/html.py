"""The report as one self-contained HTML file that makes no request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ktbench.report import scores
from ktbench.report.document import ROWS_SHOWN, Cards, Figure, Note, Page, Part, Table

_HERE = Path(__file__).parent


def html(page: Page) -> str:
    """The whole page with its style, figures, details and script inside.

    Its content security policy lets this one script run, named by its digest, and forbids any
    request.
    """
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=f"sha256-{digest}",
            details=_inert(page.details),
            printed=ROWS_SHOWN,
        )
    )


def _script() -> str:
    """The page's script, whose one chart of accuracies is of the page's metric."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    if scores.metric().digits is not None:
        script = script.replace("`${+(100 * v).toFixed(1)} %`", "String(v)")
    return script.replace("Validation accuracy by", f"Validation {scores.word()} by")


def _inert(value: object) -> Markup:
    """JSON that can hold no tag, so that nothing in it ends its element."""
    words = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        words = words.replace(character, f"\\u{ord(character):04x}")
    return Markup(words)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["bold"] = _bold
    environment.filters["breakable"] = _breakable
    environment.filters["source"] = _source
    environment.filters["kind_of_part"] = _kind_of_part
    return environment


def _bold(words: str) -> Markup:
    """Escaped words with `**...**` in bold and backticks as code, broken as `_breakable` ones."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(_breakable(words)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", bold))


def _breakable(name: str) -> Markup:
    """Escaped words that may also be broken before the settings of a name."""
    return Markup(re.sub(r"(?<=\w)\(", "<wbr>(", str(escape(name))))


def _source(figure: Figure) -> str:
    """A figure as a data address; as an image of its own, so that no ids of two can clash."""
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg).decode()


def _kind_of_part(part: Part) -> str:
    kinds = {Table: "table", Figure: "figure", Note: "note", Cards: "cards"}
    return kinds[type(part)]
