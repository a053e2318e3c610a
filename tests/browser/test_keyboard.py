"""A user without a pointer reaches everything, and sees where the focus is."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.addresses import address_of
from tests.browser.conftest import Shown
from tests.browser.visits import Visits

# What takes the focus: what is not hidden, nor in details that are closed.
REACHABLE = """() => {
    const found = [...document.querySelectorAll(
        "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
    )].filter(one => one.checkVisibility() && !one.disabled && !(one.type === "radio" && !one.checked));
    window.reach = found;
    return found.map(one => one.outerHTML.slice(0, 120));
}"""
FOCUSED = """() => {
    const one = document.activeElement;
    if (!one || one === document.body) return null;
    const style = getComputedStyle(one), place = one.getBoundingClientRect();
    const marked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
    const inView = place.bottom > 0 && place.top < innerHeight && place.right > 0 && place.left < innerWidth;
    return [window.reach.indexOf(one), marked && inView, one.outerHTML.slice(0, 120)];
}"""


@pytest.mark.parametrize(
    "name", ["overview", "queue", "dead jobs", "dead job", "failures", "schedules", "actions"]
)
def test_the_keyboard_reaches_everything(visit: Visits, shown: Shown, name: str) -> None:
    """Each link, field and button is reached by Tab, and has a visible focus in the window."""
    page = visit(address_of(name, shown.address, shown.shop), clock=True)
    wanted = page.evaluate(REACHABLE)
    reached: set[int] = set()
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found is None or (found[0] in reached and found[0] >= 0):
            break
        number, visible, html = found
        assert visible, f"the focus is not seen on {html}"
        reached.add(number)
    assert [html for number, html in enumerate(wanted) if number not in reached] == []


def test_the_first_tab_skips_to_the_content(visit: Visits, shown: Shown) -> None:
    """The first thing that Tab reaches leads past the navigation."""
    page = visit(shown.address + "queues")
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    expect(skip).to_have_attribute("href", "#main")
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").evaluate("one => !!one.closest('main')")


def test_keys(visit: Visits, shown: Shown) -> None:
    """``?`` lists the keys, ``g`` and a letter opens a page, ``/`` searches; in a field they are letters."""
    page = visit(shown.address + "queues")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Search")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/failures")
    page.goto(shown.address + "jobs")
    page.keyboard.press("/")
    field = page.locator(":focus")
    page.keyboard.type("g?f")
    expect(field).to_have_value("g?f")
    expect(dialog).to_have_count(0)


def test_keys_are_switched_off(visit: Visits, shown: Shown) -> None:
    """A user who needs the keys for something else switches them off, for the next pages too."""
    page = visit(shown.address + "queues")
    page.keyboard.press("?")
    page.get_by_label("Read these keys").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def focus(page: Page, name: str) -> None:
    """Go to a button by Tab."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text().strip() == name:
            return
    raise AssertionError(f"Tab does not reach {name}")


def test_an_action_by_keyboard(visit: Visits, in_memory: Shown) -> None:
    """A dead job is retried with nothing but keys; what was done is announced."""
    page = visit(address_of("dead job", in_memory.address, in_memory.shop))
    focus(page, "Retry")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_contain_text("etr")
    assert in_memory.shop.backend.get(in_memory.shop.ids["dead"]).crashes == 0
