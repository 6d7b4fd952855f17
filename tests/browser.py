"""Debian's Chromium, driven by Playwright, and what a page may not do in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.stack import ROOT

SCREENSHOTS = ROOT / "var/screenshots"
CHROMIUM = shutil.which("chromium") or ""
# Root may not use its sandbox; and nobody is to be asked over the network.
_OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
expect.set_options(timeout=20_000)  # ms; the machine may be busy with other tests


@contextmanager
def browsing() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS.split())
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """A page, and what was wrong in it: errors in the console, broken policies, requests to anybody else."""

    page: Page
    address: str
    wrong: list[str] = field(default_factory=list)

    def shoot(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def tab(browser: Browser, address: str, *, unreachable: bool = False, **options: Any) -> Iterator[Tab]:
    """A tab of a person's own, without cookies. What is wrong in it fails the test, but for a server that is `unreachable`."""
    context = browser.new_context(base_url=address, **options)
    context.set_default_timeout(20_000)
    found = Tab(context.new_page(), address)

    def said(message: ConsoleMessage) -> None:
        lost = unreachable and "Failed to load resource" in message.text
        if message.type in ("error", "warning") and not lost:
            found.wrong.append(message.text)

    def asked(url: str) -> None:
        if urlsplit(url).netloc != urlsplit(address).netloc:
            found.wrong.append(f"asks {url}")

    found.page.on("console", said)
    found.page.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.page.on("request", lambda request: asked(request.url))
    try:
        yield found
        assert [] == found.wrong, found.wrong
    finally:
        context.close()
