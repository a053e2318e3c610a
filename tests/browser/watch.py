"""What a browser complains about while a test drives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, WebError


class Watch:
    """Collects what no page may do: errors, warnings, blocked contents, dialogs, requests to other hosts."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.requests: list[str] = []
        self._complaints: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self._host = urlsplit(address).netloc
        context.on("console", self._said)
        context.on("weberror", self._raised)
        context.on("request", self._asked)
        context.on("dialog", self._opened)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning", "assert"}:
            self._complain(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _raised(self, error: WebError) -> None:
        self._complain(f"page error: {error.error}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        self.requests.append(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc != self._host:
            self._complain(f"request to another host: {request.url}")

    def _opened(self, dialog: Dialog) -> None:
        self._complain(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _complain(self, what: str) -> None:
        if not any(pattern.search(what) for pattern in self._expected):
            self._complaints.append(what)

    @contextmanager
    def expecting(self, pattern: str) -> Iterator[None]:
        """Within it, complaints that match are what the test is about."""
        self._expected.append(re.compile(pattern))
        yield
        self._expected.pop()

    def check(self) -> None:
        """Fail if there was a complaint."""
        assert not self._complaints, "the browser complained:\n" + "\n".join(self._complaints)


def settle(page: Page) -> None:
    """Let the events that the browser has sent arrive."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
