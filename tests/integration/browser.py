"""Pages as a person sees them, in headless Chromium; tests that use it are skipped where Chromium is missing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
PATIENCE_MS = 60_000
PICTURES = os.environ.get("ZK0_TEST_PICTURES")
"""Folder in which the pages that tests open are kept as PNG; how the pictures in docs/ were made."""


WIDTHS = (1400, 390)
"""Pixels of a screen, and of a phone."""


@contextmanager
def browser(width: int = WIDTHS[0]) -> Iterator[Page]:
    """One window, 1000 pixels high."""
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = window.new_page(viewport={"width": width, "height": 1000})
            page.set_default_timeout(PATIENCE_MS)
            yield page
        finally:
            window.close()


def sees(page: Page, url: str, *texts: str, picture: str | None = None) -> None:
    """Open a page and wait until every text can be seen on it."""
    page.goto(url)
    for text in texts:
        expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE_MS)
    keep(page, picture)


def keep(page: Page, picture: str | None) -> None:
    """Write what the window shows, where somebody asked for pictures."""
    if PICTURES and picture:
        page.wait_for_timeout(1500)  # its animations
        page.screenshot(path=Path(PICTURES) / f"{picture}.png")
