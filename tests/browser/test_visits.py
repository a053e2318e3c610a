"""The fixtures of the browser's tests see what they promise to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.visits import CONTRAST, Visits, hindrances, sideways

CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:"


def page_of(body: str, csp: str = "") -> Callable[..., list[bytes]]:
    """An application of one page."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        found = environ["PATH_INFO"] == "/"
        text = (
            f"<!doctype html><html lang=en><title>Small</title><link rel=icon href=data:,>{body}"
            if found
            else ""
        )
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(text.encode())))]
        start_response(
            "200 OK" if found else "404 Not Found", headers + [("Content-Security-Policy", csp)] * bool(csp)
        )
        return [text.encode()]

    return app


def complaints_of(browser: Browser, body: str, csp: str = "") -> list[str]:
    visits = Visits(browser)
    visits(visits.serve(page_of(body, csp)))
    visits.end()
    return visits.complaints


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<script>console.error('burst')</script>", "console error: burst"),
        ("<script>setTimeout(() => { throw new Error('torn') })</script>", "error in a page: torn"),
        ("<script>alert('hello')</script>", "dialog: hello"),
        ("<img alt='' src=//127.0.0.2:9/x.png>", "request to another host: http://127.0.0.2:9/x.png"),
        ("<img alt='' src=/missing.png>", "404"),
    ],
)
def test_a_complaint_is_collected(browser: Browser, body: str, complaint: str) -> None:
    """What a page writes to the console, raises, opens or asks of another host is seen."""
    assert complaint in "\n".join(complaints_of(browser, body))


@pytest.mark.parametrize("body", ["<script>document.title = 'ran'</script>", "<p style='color: red'>Red</p>"])
def test_what_a_policy_blocks_is_collected(browser: Browser, body: str) -> None:
    """An inline script or style that the Content-Security-Policy blocks is seen."""
    assert "Content Security Policy" in "\n".join(complaints_of(browser, body, CSP))


def test_a_sound_page_has_no_complaints(visit: Visits) -> None:
    """A page with nothing wrong passes, and axe finds nothing on it."""
    page = visit(visit.serve(page_of("<main><h1>Small</h1><p>Text.</p></main>", CSP)))
    assert hindrances(page) == []


def test_axe_finds_what_hinders(visit: Visits) -> None:
    """A field without a name and a text too pale are found."""
    body = "<main><h1>Small</h1><input name=q><p style='color: #bbb'>Pale.</p></main>"
    page = visit(visit.serve(page_of(body)))
    assert [found.partition(":")[0] for found in hindrances(page)] == ["color-contrast", "label"]
    assert [found.partition(":")[0] for found in hindrances(page, CONTRAST)] == ["color-contrast"]


def test_a_page_that_is_too_wide_is_found(visit: Visits) -> None:
    """An element that is wider than its window is named."""
    page = visit(visit.serve(page_of("<main><pre>" + 400 * "wide" + "</pre></main>")))
    assert any("<pre>" in found for found in sideways(page))


def test_without_scripts(visit: Visits) -> None:
    """A visitor without JavaScript runs none."""
    address = visit.serve(
        page_of("<p>Still</p><script>document.querySelector('p').textContent = 'ran'</script>")
    )
    assert visit(address, java_script_enabled=False).inner_text("p") == "Still"
    assert visit(address).inner_text("p") == "ran"
