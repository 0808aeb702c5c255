"""A headless browser for the tests of pages, and what a page did in it.

Without playwright or chromium the tests that launch it are skipped; `make test` installs both. Change here how pages
are opened, and what is noted of them.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """The browser, closed afterwards; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


def until(page: Any, expression: str, seconds: float = 10) -> None:
    """Waits for a JavaScript expression to hold. (The page's own policy forbids the eval of wait_for_function.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not: {expression}"
        page.wait_for_timeout(20)


class Seen:
    """What a page did that a user would not see: `errors` as texts, `requests` as addresses."""

    def __init__(self, page: Any) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self.dialog)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", self.failed)

    def failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # what a seek does to the audio that was being read
            self.errors.append(f"{request.failure}: {request.url}")

    def dialog(self, dialog: Any) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()
