"""A page that is open shows what happens, and takes nothing out of the reader's hands."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

import neoq.testing
from tests.browser.addresses import address_of
from tests.browser.conftest import Shown
from tests.browser.visits import Visits, sideways


@pytest.fixture
def jobs(visit: Visits, in_memory: Shown) -> Page:
    """The list of jobs, open."""
    return visit(in_memory.address + "jobs", clock=True)


def later(page: Page, seconds: float = 3) -> None:
    """Let time pass in a page."""
    page.clock.run_for(int(seconds * 1000))


def row_of(page: Page, job_id: int) -> object:
    """The row of a job in a list."""
    return expect(page.locator("tbody tr").filter(has=page.locator(f'a[href*="id={job_id}"]')))


def test_a_page_shows_what_is_new(in_memory: Shown, jobs: Page) -> None:
    """A job that is added appears in the list that is open; the page is not loaded again."""
    jobs.evaluate("window.same = true")
    added = in_memory.shop.add("ok", run_after=3600)
    later(jobs)
    row_of(jobs, added.id).to_be_visible()
    assert jobs.evaluate("window.same")


def test_what_has_not_changed_is_not_sent(visit: Visits, in_memory: Shown) -> None:
    """A region that is the same as before is answered with 304, from its second refresh on."""
    page = visit(address_of("dead jobs", in_memory.address, in_memory.shop), clock=True)
    for status in (200, 304):
        with page.expect_response(lambda answer: answer.request.resource_type == "xhr") as answer:
            later(page)
        assert answer.value.status == status


class TestInTheReadersHands:
    """What the reader does to a page stays, and some of it stops the refreshing."""

    def test_the_focus_stays(self, in_memory: Shown, jobs: Page) -> None:
        """A link that has the focus keeps it when its list changes."""
        link = f'main a[href*="id={in_memory.shop.ids["dead"]}"]'
        jobs.focus(link)
        added = in_memory.shop.add("ok", run_after=3600)
        later(jobs)
        row_of(jobs, added.id).to_be_visible()
        expect(jobs.locator(link).first).to_be_focused()

    def test_a_selection_stops_it(self, visit: Visits, in_memory: Shown, jobs: Page) -> None:
        """While a text is selected the page does not change, and says so; then it goes on."""
        jobs.evaluate("getSelection().selectAllChildren(document.querySelector('main table'))")
        self._stands_still(visit, in_memory, jobs, lambda: jobs.evaluate("getSelection().removeAllRanges()"))

    def test_a_field_stops_it(self, visit: Visits, in_memory: Shown, jobs: Page) -> None:
        """While a field has the focus the page does not change, and says so; then it goes on."""
        jobs.focus("main form input:not([type=hidden], [type=checkbox])")
        self._stands_still(visit, in_memory, jobs, lambda: jobs.evaluate("document.activeElement.blur()"))

    def test_a_tick_stops_it(self, visit: Visits, in_memory: Shown, jobs: Page) -> None:
        """While a row is ticked the page does not change, and says so; then it goes on."""
        box = jobs.locator("main tbody input[type=checkbox]").first
        box.check()
        jobs.evaluate("document.activeElement.blur()")
        self._stands_still(visit, in_memory, jobs, lambda: (box.uncheck(), box.blur()))

    def test_a_hidden_tab_stops_it(self, visit: Visits, in_memory: Shown, jobs: Page) -> None:
        """A tab that nobody sees asks for nothing; when it is seen again it asks at once."""

        def seen(hidden: bool) -> None:
            jobs.evaluate(
                """hidden => {
                    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
                    const state = hidden ? "hidden" : "visible";
                    Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
                    document.dispatchEvent(new Event("visibilitychange"));
                }""",
                hidden,
            )

        seen(True)
        self._stands_still(visit, in_memory, jobs, lambda: seen(False), says=None)

    def test_choice_is_kept(self, visit: Visits, jobs: Page) -> None:
        """A user who turns refreshing off finds it off on the next page."""
        jobs.select_option("#refresh-every", "0")
        jobs.evaluate("document.activeElement.blur()")
        before = visit.asked
        later(jobs, 10)
        jobs.reload()
        expect(jobs.locator("#refresh-every")).to_have_value("0")
        later(jobs, 10)
        assert visit.asked == before

    def _stands_still(
        self, visit: Visits, in_memory: Shown, page: Page, go_on: object, says: str | None = "paused"
    ) -> None:
        before = visit.asked
        added = in_memory.shop.add("ok", run_after=3600)
        later(page, 10)
        assert visit.asked == before
        if says:
            expect(page.locator("#refresh-said")).to_have_text(re.compile(says))
        go_on()
        later(page)
        row_of(page, added.id).to_be_visible()


def test_open_details_stay(visit: Visits, in_memory: Shown) -> None:
    """What the reader has unfolded stays so when the page changes."""
    shop = in_memory.shop
    page = visit(address_of("retrying job", in_memory.address, shop), clock=True)
    details = page.locator("main details").first
    before = details.evaluate("one => one.open")
    details.locator("summary").click()
    shop.backend.cancel(shop.ids["retrying"])
    later(page)
    expect(page.locator("main .state-cancelled").first).to_be_visible()
    assert details.evaluate("one => one.open") is not before


@pytest.mark.parametrize("path", ["", "queues", "jobs"])
def test_the_store_away(visit: Visits, in_memory: Shown, path: str) -> None:
    """While the store is away an open page keeps what it shows and says so; then it goes on by itself."""
    visit.expected.append("503")
    page = visit(in_memory.address + path, clock=True)
    seen = page.locator("main").inner_text()
    with neoq.testing.Faults(in_memory.shop.backend).outage():
        later(page)
        expect(page.get_by_text("does not answer").first).to_be_visible()
        page.set_viewport_size({"width": 320, "height": 700})
        assert sideways(page) == []
        assert "emails" in seen
        assert "emails" in page.locator("main").inner_text()
    while (
        page.locator("#refresh-said").inner_text() != "live"
    ):  # the pages share what they know for two seconds
        later(page, 31)
        page.wait_for_timeout(100)


def test_a_page_loaded_while_the_store_is_away(visit: Visits, in_memory: Shown) -> None:
    """A page that is loaded then says that the store is away, and is whole again when it is back."""
    visit.expected.append("503")
    with neoq.testing.Faults(in_memory.shop.backend).outage():
        page = visit(in_memory.address + "jobs")
        expect(page.get_by_role("heading", name="away")).to_be_visible()
    page.reload()
    expect(page.locator("main")).to_contain_text("emails")
