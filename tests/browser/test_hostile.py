"""What a job, a queue or a worker brings along is text on every page, and never runs."""

from __future__ import annotations

from urllib.parse import quote

from playwright.sync_api import Page

from tests.browser.addresses import NAMES, address_of
from tests.browser.conftest import HOSTILE, Shown
from tests.browser.visits import Visits

ADDRESSES = [
    "jobs?queue={0}&status=dead&kind={0}&key={0}&error={0}&payload=to:{0}",
    "jobs?status={0}",
    "jobs?since={0}&until={0}&time={0}&order={0}&after={0}&before={0}",
    "job?id={0}",
    "queue?name={0}",
    "actions?before={0}",
    "failures?queue={0}&since={0}",
    "{0}",
]


def ran(page: Page) -> bool:
    """Whether a hostile text became a part of the page, or a template computed it."""
    return page.locator("#ran, img[src=x]").count() > 0 or "1337" in page.inner_text("body")


def test_hostile_texts_do_not_run(visit: Visits, hostile: Shown) -> None:
    """A script in any field of a job, its queue, its error or its schedule is shown as text."""
    visit.expected.append("status of 40")
    page = visit(hostile.address)
    for name in NAMES:
        page.goto(address_of(name, hostile.address, hostile.shop))
        assert not ran(page), name


def test_hostile_addresses_do_not_run(visit: Visits, shown: Shown) -> None:
    """A script in the address is shown as text or not at all, and does not make the dashboard fail."""
    visit.expected.append("status of 4")
    page = visit(shown.address)
    for address in ADDRESSES:
        answer = page.goto(shown.address + address.format(quote(HOSTILE, safe="")))
        assert answer is not None
        assert answer.status < 500, address
        assert not ran(page), address
