"""A real headless browser for tests of the report's page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.optional_tools import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_PATIENCE_MS = 60_000
"""For machines with much else to do; nothing here waits where nothing is wrong."""


def expect(locator: Any) -> Any:
    """Return Playwright's assertions on a part of a page, with this file's patience."""
    from playwright.sync_api import expect

    expect.set_options(timeout=_PATIENCE_MS)
    return expect(locator)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium, without the sandbox that it cannot have as root."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """An open page, the addresses that it requested and the complaints in its console."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(browser: Browser, path: Path, anchor: str = "", width: int = 1280) -> Iterator[Visit]:
    """Open a page in a fresh profile, as a reader does."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(_PATIENCE_MS)
    found = Visit(context.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    try:
        found.page.goto(path.as_uri() + anchor)
        yield found
    finally:
        context.close()
