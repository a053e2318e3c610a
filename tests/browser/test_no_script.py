"""Without JavaScript every page can be read, filtered and turned, and has an address that shows it again."""

from __future__ import annotations

from urllib.parse import urldefrag, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Shown
from tests.browser.visits import Visits

MOST = 60  # pages that are followed


@pytest.fixture
def page(visit: Visits, in_a_file: Shown) -> Page:
    """The list of jobs, in a browser that runs no scripts."""
    return visit(in_a_file.address + "jobs", java_script_enabled=False)


def ids(page: Page) -> list[int]:
    return [int(text) for text in page.locator("tbody th a").all_inner_texts()]


def test_every_link_leads_to_a_page(visit: Visits, in_a_file: Shown) -> None:
    """Whatever is linked on a page, from the first one on, is there and has a heading."""
    first = in_a_file.address
    page = visit(first, java_script_enabled=False)
    waiting, seen = [first], {first}
    while waiting and len(seen) < MOST:
        answer = page.goto(waiting.pop(0))
        assert answer is not None
        assert answer.status == 200, answer.url
        assert page.locator("h1").count() == 1, answer.url
        for link in page.eval_on_selector_all("a[href]:not([download])", "all => all.map(one => one.href)"):
            address = urldefrag(link).url
            if address not in seen and urlsplit(address).netloc == urlsplit(first).netloc:
                seen.add(address)
                waiting.append(address)


def test_a_filter(page: Page, in_a_file: Shown) -> None:
    """A filter is a form, and what it finds has an address that finds it again."""
    page.locator(".chips").get_by_role("link", name="dead").click()
    page.get_by_label("Text in the error").fill("card declined")
    page.get_by_role("button", name="Find").click()
    assert ids(page) == [in_a_file.shop.ids["dead"]]
    page.goto(page.url)
    assert ids(page) == [in_a_file.shop.ids["dead"]]
    expect(page.get_by_label("Text in the error")).to_have_value("card declined")


def test_turning_pages(page: Page, in_a_file: Shown) -> None:
    """All jobs are reached by turning pages, each once, and the first page by turning back."""
    for _ in range(130):
        in_a_file.shop.add("ok", run_after=3600)
    page.reload()
    first, found = ids(page), ids(page)
    turns = 0
    while page.locator("a[rel=next]").count():
        page.locator("a[rel=next]").click()
        found += ids(page)
        turns += 1
    assert sorted(found) == sorted(job.id for job in in_a_file.shop.backend.iter_jobs())
    for _ in range(turns):
        page.locator("a[rel=prev]").click()
    assert ids(page) == first
