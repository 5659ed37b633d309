"""Chromium without a window: to look at pages as a reader does, and to print them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",  # containers forbid what the sandbox needs; pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """Return the browser's program: `$CHROMIUM`, or the first of `NAMES` on the path.

    Raises:
        FileNotFoundError: There is none; says how to install it.
    """
    wanted = os.environ.get("CHROMIUM")
    found = map(shutil.which, [wanted] if wanted else NAMES)
    program = next(filter(None, found), None)
    if program is None:
        raise FileNotFoundError(
            f"found no browser named {wanted or ', '.join(NAMES)}: install Chromium "
            "(Debian: apt-get install chromium), or name another build of it by the "
            "variable CHROMIUM"
        )
    return program


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser, and end it whatever happens.

    Raises:
        FileNotFoundError: There is none; says how to install it.
    """
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
