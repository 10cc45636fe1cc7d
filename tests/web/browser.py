"""A browser with pages of nodes, and what tests of them share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

HERE = Path(__file__).resolve().parent
# Nothing of the browser's own goes out to the network; the heap's size is exact.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-precise-memory-info",
)


def chromium() -> str | None:
    """Path of the browser, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Pages:
    """The pages that a test opens. Each is a browser of its own: nothing is shared with others."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.faults: list[str] = []  # console errors, exceptions and violations of the policy

    def open(
        self,
        url: str,
        *,
        path: str = "",
        init: str = "",
        width: int = 1440,
        height: int = 900,
        **options: Any,
    ) -> Page:
        """A page at the node's URL, with whatever goes wrong in it written down."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        self._contexts.append(context)
        page = context.new_page()
        if init:
            page.add_init_script(init)
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("console", self._console)
        page.goto(f"{url}/{path}")
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def forgive(self, *parts: str) -> None:
        """Take back what is expected, e.g. of a node that was killed."""
        self.faults = [text for text in self.faults if not any(part in text for part in parts)]

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def until(page: Page, condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    """Wait for something outside of the page, while the page goes on."""
    for _ in range(round(seconds / 0.05)):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s")
