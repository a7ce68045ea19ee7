"""A headless Chromium for tests of pages; where none is on the PATH they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here")
NARROW = {"width": 400, "height": 800}
WIDE = {"width": 760, "height": 1000}


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser without a window, and without anything that another test left in it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def window(browser: Any, address: str, *, allowed: str = "\0") -> Iterator[Any]:  # noqa: ANN401
    """A narrow window of its own at an address; what goes wrong in it fails the test.

    Args:
        browser: From `browsing`.
        address: Where it goes first.
        allowed: Errors in the console with these words are expected.
    """
    context = browser.new_context(viewport=NARROW, accept_downloads=True)
    found = context.new_page()
    found.set_default_timeout(60_000)
    wrong: list[str] = []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    found.goto(address)
    yield found
    assert [line for line in wrong if allowed not in line] == []
    context.close()


def no_wider_than_the_window(page: Any) -> bool:  # noqa: ANN401
    """Whether nobody has to scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def tab_to(page: Any, element: str) -> None:  # noqa: ANN401
    """Go on with the Tab key until the element with this id has the focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == element:
            return
    raise AssertionError(f"the Tab key never comes to {element}")
