"""Pages as a person sees them, in headless Chromium; tests that use it are skipped where Chromium is missing."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.browser import CHROMIUM, PATIENCE_MS, WIDTHS, browser

__all__ = ["WIDTHS", "browser", "keep", "needs_chromium", "sees"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
PICTURES = os.environ.get("ZK0_TEST_PICTURES")
"""Folder in which the pages that tests open are kept as PNG; how the pictures in docs/ were made."""


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
