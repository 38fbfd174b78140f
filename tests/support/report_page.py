"""A reader of report pages that collects words, addresses and anchors as a browser would."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


def page(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """A parser that checks that tags close, and collects text and addresses."""

    VOID = frozenset({"meta", "img", "br", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self._glued = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [v for k, v in found.items() if k in ("src", "href") and v]
        self.anchors |= {found["id"] or ""} if "id" in found else set()
        self._glued |= tag == "wbr"  # a place to break a word, which is one word all the same
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            if self._glued:
                data = self.words.pop() + data
            self.words.append(data)
        self._glued = False


def outline(folder: Path) -> Outline:
    parser = Outline()
    parser.feed(page(folder))
    assert parser.open == []
    return parser
