"""Everybody can read every page: in any window, in light and dark, with a screen reader."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.addresses import NAMES, address_of
from tests.browser.conftest import Shown
from tests.browser.visits import CONTRAST, Visits, hindrances, sideways

WIDTHS = [320, 390, 640, 768, 1440]  # 320 and 640 are also a window of 1280 at four times and twice the size

# What moves although the reader has asked for little motion.
MOVING = """() => [...document.querySelectorAll("*")].filter(one => {
    const {animationName, animationDuration, transitionDuration} = getComputedStyle(one);
    const moves = animationName !== "none" && parseFloat(animationDuration) > 0.01;
    return moves || Math.max(...transitionDuration.split(",").map(parseFloat)) > 0.01;
}).map(one => one.outerHTML.slice(0, 120))"""

# What a browser without scripts does with a form, in one with them, which axe needs.
ASK_WITHOUT_SCRIPTS = """() => {
    const form = document.querySelector("main button[value=delete]").form;
    const field = Object.assign(document.createElement("input"), {type: "hidden", name: "action"});
    field.value = "delete";
    form.append(field);
    form.setAttribute("action", form.getAttribute("action") + "?ask=yes");
    HTMLFormElement.prototype.submit.call(form);
}"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("third", range(3))
def test_everybody_can_use_every_page(visit: Visits, shown: Shown, third: int) -> None:
    """Axe finds nothing on a page, light and dark; no window makes it scroll sideways; nothing moves."""
    visit.expected.append("status of 404")
    visit.expected.append("status of 400")
    page = visit(shown.address, reduced_motion="reduce")  # colours do not fade from one to the other
    found: dict[str, list[str]] = {}
    for name in NAMES[third::3]:
        page.emulate_media(color_scheme="light")
        page.goto(address_of(name, shown.address, shown.shop))
        assert page.title().endswith("The shop")
        found[name] = hindrances(page)
        page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = hindrances(page, CONTRAST)  # nothing but the colours is different
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 700})
            found[f"{name}, {width} wide"] = sideways(page)
        found[f"{name}, moving"] = page.evaluate(MOVING)
    assert {name: what for name, what in found.items() if what} == {}


def test_everybody_can_use_a_dialog(visit: Visits, shown: Shown) -> None:
    """Axe finds nothing on the list of keys, nor on a question before something is deleted."""
    page = visit(address_of("dead job", shown.address, shown.shop), reduced_motion="reduce")
    for opener in ("Keys", "Delete"):
        page.get_by_role("button", name=opener).click()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert hindrances(page) == [], (opener, scheme)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Delete")).to_be_focused()


def test_times_are_the_readers(visit: Visits, shown: Shown) -> None:
    """A time is told relative to now; the exact one, in the reader's zone and in UTC, is in reach."""
    page = visit(address_of("dead job", shown.address, shown.shop), timezone_id="Asia/Tokyo", locale="en-GB")
    time = page.locator("main time").first
    expect(time).to_have_text(re.compile(r"ago|now"))
    expect(time).to_have_attribute("title", re.compile(r"(GMT\+9|JST).*UTC"))


def test_everybody_can_use_what_answers_an_action(visit: Visits, in_memory: Shown) -> None:
    """Axe finds nothing on the page that asks before something is deleted, nor on that of many deletions."""
    page = visit(address_of("dead job", in_memory.address, in_memory.shop))
    page.set_viewport_size({"width": 320, "height": 700})
    page.evaluate(ASK_WITHOUT_SCRIPTS)
    expect(page.locator("h1")).to_contain_text("Delete")
    assert (hindrances(page), sideways(page)) == ([], [])
    page.goto(address_of("all that match", in_memory.address, in_memory.shop))
    page.get_by_role("button", name="Delete 4 jobs").click()
    expect(page.locator("main")).to_contain_text("4 deleted")
    assert (hindrances(page), sideways(page)) == ([], [])
