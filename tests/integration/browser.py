"""Pages as a person sees them, in headless Chromium; tests that use it are skipped where Chromium is missing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.browser import CHROMIUM, PATIENCE_MS, WIDTHS, browser

__all__ = ["WIDTHS", "alone", "browser", "keep", "needs_chromium", "sees"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
PICTURES = os.environ.get("ZK0_TEST_PICTURES")
"""Folder in which the pages that tests open are kept as PNG; how the pictures in docs/ were made."""


def sees(page: Page, url: str, *texts: str, picture: str | None = None) -> None:
    """Open a page and wait until every text can be seen on it."""
    page.goto(url)
    for text in texts:
        expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE_MS)
    keep(page, picture)


@contextmanager
def alone(path: Path, width: int) -> Iterator[Page]:
    """A page from a file; it asks for nothing else, and the console has nothing to say of it."""
    with browser(width) as page:
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert said == []
        assert asked == [path.as_uri()]


def keep(page: Page, picture: str | None) -> None:
    """Write what the window shows, where somebody asked for pictures."""
    if PICTURES and picture:
        page.wait_for_timeout(1500)  # its animations
        page.screenshot(path=Path(PICTURES) / f"{picture}.png")
