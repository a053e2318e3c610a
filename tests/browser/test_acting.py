"""Every action is done by a click, with JavaScript and without, and says what it did."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from neoq.record import Status
from tests.browser.addresses import address_of
from tests.browser.conftest import Shown
from tests.browser.visits import Visits

Open = Callable[[str], Page]


@pytest.fixture(params=["scripts", "no scripts"])
def scripts(request: pytest.FixtureRequest) -> bool:
    """Whether the visitor's browser runs JavaScript."""
    return bool(request.param == "scripts")


@pytest.fixture
def acting(request: pytest.FixtureRequest, scripts: bool) -> Shown:
    """A shop of the test's own: with JavaScript in memory, without in a file."""
    found: Shown = request.getfixturevalue("in_memory" if scripts else "in_a_file")
    return found


@pytest.fixture
def at(visit: Visits, acting: Shown, scripts: bool) -> Open:
    """Open a page of the shop by its name."""

    def open_page(name: str) -> Page:
        return visit(address_of(name, acting.address, acting.shop), java_script_enabled=scripts)

    return open_page


def press(page: Page, name: str) -> None:
    page.locator("main").get_by_role("button", name=name, exact=True).first.click()


def confirm(page: Page, name: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=name).click()


def said(page: Page, text: str) -> None:
    expect(page.locator("#live")).to_contain_text(re.compile(text, re.IGNORECASE))


def status(acting: Shown, job_id: int) -> str | None:
    job = acting.shop.backend.get(job_id)
    return None if job is None else str(job.status)


def test_a_job_is_retried(at: Open, acting: Shown) -> None:
    """A dead job is retried from its page; who did it is recorded."""
    acting.shop.backend.pause("emails")  # so that it stays to be seen
    page = at("dead job")
    press(page, "Retry")
    said(page, "1 job")
    assert status(acting, acting.shop.ids["dead"]) == Status.PENDING
    page.get_by_role("link", name="Actions").click()
    expect(page.locator("tbody tr")).to_contain_text(["ada"])


def test_a_job_is_cancelled_and_deleted(at: Open, acting: Shown, visit: Visits, scripts: bool) -> None:
    """A job that waits for its time is cancelled from its page, and deleted then."""
    page = at("scheduled job")
    visit.expected.append(r"404 .*job\?id=")  # the page may look at the job after its end, until it is left
    press(page, "Cancel")
    said(page, "cancelled")
    job = acting.shop.ids["scheduled"]
    assert status(acting, job) == Status.CANCELLED
    press(page, "Delete")
    if scripts:
        confirm(page, "Delete")
    else:
        press(page, "Delete")  # of the page that asks
    said(page, "deleted")
    assert status(acting, job) is None


def test_a_job_is_run_now(at: Open, acting: Shown) -> None:
    """A job that waits for its time is run now from its page."""
    page = at("scheduled job")
    press(page, "Run now")
    said(page, "1 job made ready")
    job = acting.shop.backend.wait(acting.shop.ids["scheduled"], timeout=15)
    assert job.status is Status.SUCCEEDED


def test_a_queue_is_paused_and_resumed(at: Open, acting: Shown) -> None:
    """A queue is paused from its page, and resumed there."""
    page = at("queue")
    press(page, "Pause")
    said(page, "paused")
    assert [queue.paused for queue in acting.shop.backend.queues() if queue.queue == "emails"] == [True]
    press(page, "Resume")
    said(page, "goes on")
    assert [queue.paused for queue in acting.shop.backend.queues() if queue.queue == "emails"] == [False]


def test_what_is_ticked_is_changed(at: Open, acting: Shown, scripts: bool) -> None:
    """Of a list, the jobs that are ticked are changed and the others are not."""
    page = at("dead jobs")
    boxes = page.locator("tbody input[type=checkbox]")
    expect(boxes).to_have_count(4)
    for n in range(2):
        boxes.nth(n).check()
    press(page, "Delete")
    if scripts:
        confirm(page, "Delete")
    else:
        press(page, "Delete")  # of the page that asks
    said(page, "2 jobs")
    expect(page.locator("tbody tr")).to_have_count(2)
    assert acting.shop.backend.count(status="dead") == 2


def test_all_that_match_are_changed(at: Open, acting: Shown) -> None:
    """All jobs that match a filter are changed at once, after a page that counts them."""
    page = at("dead jobs")
    page.get_by_label("Text in the error").fill("no paper")
    press(page, "Find")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("link", name="Delete all…").click()
    expect(page.locator("main")).to_contain_text("3 jobs")
    press(page, "Delete 3 jobs")
    expect(page.locator("main")).to_contain_text("3 deleted")
    assert acting.shop.backend.count(status="dead") == 1


def test_a_group_of_failures_is_retried(at: Open, acting: Shown, scripts: bool) -> None:
    """Dead jobs of the same error are retried together, and those of another error are not."""
    shop = acting.shop
    shop.backend.pause("emails")  # so that what is retried stays to be seen
    page = at("failures")
    group = page.locator("tbody tr").filter(has_text="PrinterJammed")
    group.get_by_role("button", name="Retry 3").click()
    if scripts:
        confirm(page, "Retry 3")
    said(page, "3 jobs")
    expect(group).to_have_count(0)
    assert status(acting, shop.ids["dead"]) == Status.DEAD
    assert status(acting, shop.ids["jammed"]) == Status.PENDING


def test_a_double_click_acts_once(at: Open, acting: Shown) -> None:
    """A user who clicks twice does it once."""
    acting.shop.backend.pause("emails")
    page = at("dead job")
    page.locator("main").get_by_role("button", name="Retry", exact=True).dblclick()
    said(page, "1 job")
    assert status(acting, acting.shop.ids["dead"]) == Status.PENDING
    assert len(acting.shop.backend.audit()) == 1


def test_nothing_ticked(at: Open, acting: Shown, scripts: bool) -> None:
    """With nothing ticked nothing is changed: the button cannot be pressed, or the answer says why."""
    page = at("dead jobs")
    button = page.locator("main").get_by_role("button", name="Delete", exact=True).first
    if scripts:
        expect(button).to_be_disabled()
    else:
        button.click()
        said(page, "tick|nothing")
    assert acting.shop.backend.count(status="dead") == 4


def test_a_stale_page_changes_nothing(at: Open, acting: Shown, scripts: bool) -> None:
    """A job that has changed since its page was made is left as it is, and the answer says what changed."""
    page = at("scheduled job")
    if scripts:  # or the page would be told in time
        page.get_by_label("Refresh this page").select_option("0")
    acting.shop.backend.cancel(acting.shop.ids["scheduled"])
    page.locator("main").get_by_role("button", name="Run now", exact=True).click()
    said(page, "cancelled")
    assert status(acting, acting.shop.ids["scheduled"]) == Status.CANCELLED
