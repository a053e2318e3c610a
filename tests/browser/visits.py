"""Visitors with a browser of their own, and what the browser complains about while they are there."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, WebError

from tests.browser.serving import serving

PATIENCE = 20_000  # milliseconds; the machine may be busy
# What axe looks at: WCAG 2.2 at level AA, with all that it builds on.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
CONTRAST = ["color-contrast", "link-in-text-block"]


class Visits:
    """Opens pages, each in a browser context of its own, and closes them at the end.

    No page may write errors or warnings to the console (blocked contents do), raise, open a dialog, or ask
    another host; what is `expected` is not counted.
    """

    def __init__(self, browser: Browser) -> None:
        self.asked = 0  # how often a script asked for something
        self.expected: list[str] = []
        self._browser = browser
        self._complaints: list[str] = []
        self._hosts: set[str] = set()
        self._closing = ExitStack()

    def serve(self, app: Any) -> str:
        """Serve an application until the end; its address."""
        return self._closing.enter_context(serving(app))

    def __call__(self, address: str, *, clock: bool = False, **options: Any) -> Page:
        """Open an address; ``options`` are those of Playwright's ``new_context``.

        With a clock the test can make time pass in the page, by ``page.clock``.
        """
        context = self._closing.enter_context(self._browser.new_context(**options))
        context.set_default_timeout(PATIENCE)
        self._hosts.add(urlsplit(address).netloc)
        self._listen(context)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.goto(address)
        return page

    def end(self) -> None:
        """Close all that was opened."""
        self._closing.close()

    @property
    def complaints(self) -> list[str]:
        """What the browser complained about, without what was expected."""
        return [what for what in self._complaints if not any(re.search(one, what) for one in self.expected)]

    def _listen(self, context: BrowserContext) -> None:
        context.on("console", self._said)
        context.on("weberror", self._raised)
        context.on("dialog", self._opened)
        context.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning", "assert"}:
            self._complaints.append(f"console {message.type}: {message.text} ({message.location['url']})")

    def _raised(self, error: WebError) -> None:
        self._complaints.append(f"error in a page: {error.error}")

    def _opened(self, dialog: Dialog) -> None:
        self._complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Request) -> None:
        self.asked += request.resource_type in {"fetch", "xhr"}
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob", "about"} and parts.netloc not in self._hosts:
            self._complaints.append(f"request to another host: {request.url}")


def sideways(page: Page) -> list[str]:
    """The elements that make a page wider than its window, none where nobody needs to scroll sideways."""
    found: list[str] = page.evaluate(_SIDEWAYS)
    return found


_SIDEWAYS = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const all = [...document.body.querySelectorAll("*")];
    const wide = all.filter(one => one.getBoundingClientRect().left + one.scrollWidth > width + 1);
    return ["the page"].concat(wide.slice(0, 5).map(one => one.outerHTML.slice(0, 120)));
}"""


def hindrances(page: Page, rules: list[str] = RULES) -> list[str]:
    """What axe finds on a page that keeps somebody from using it, a line for each element."""
    if page.evaluate("typeof axe === 'undefined'"):  # it is large
        page.evaluate(Axe().axe_script)
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    found: dict[str, Any] = page.evaluate("options => axe.run(options)", options)
    return [
        f"{violation['id']}: {node['html'][:160]} ({node['failureSummary'].splitlines()[-1].strip()})"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
