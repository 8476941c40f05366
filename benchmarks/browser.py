"""Headless Chromium: pages as a person sees them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000
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
