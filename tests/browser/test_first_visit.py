"""A visit costs few requests and few bytes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.addresses import address_of
from tests.browser.conftest import Shown

FIRST, NEXT = 60_000, 15_000  # bytes
REQUESTS = 4


def transferred(browser: Browser, *addresses: str) -> list[tuple[int, int]]:
    """The requests of each visit, one after the other, and the bytes that came over the wire."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda done: sizes.append(int(done["encodedDataLength"])))
    found = []
    for address in addresses:
        sizes.clear()
        page.goto(address, wait_until="networkidle")
        found.append((len([size for size in sizes if size]), sum(sizes)))
    context.close()
    return found


@pytest.mark.parametrize("name", ["overview", "jobs", "dead job"])
def test_first_visit(browser: Browser, shown: Shown, name: str) -> None:
    """The first page takes at most four requests and 60 KB, the next one 15 KB."""
    first = address_of(name, shown.address, shown.shop)
    following = address_of("queues", shown.address, shown.shop)
    (requests, size), (_, size_of_next) = transferred(browser, first, following)
    assert requests <= REQUESTS
    assert size <= FIRST
    assert size_of_next <= NEXT
