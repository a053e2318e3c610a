"""Everybody can read every page: in any window, in light and dark, with a screen reader."""

from __future__ import annotations

import pytest

from tests.browser.addresses import NAMES, address_of
from tests.browser.conftest import Shown
from tests.browser.visits import CONTRAST, Visits, hindrances, sideways

WIDTHS = [320, 390, 640, 768, 1440]  # 320 and 640 are also a window of 1280 at four times and twice the size


@pytest.mark.timeout(180)
def test_everybody_can_use_every_page(visit: Visits, shown: Shown) -> None:
    """Axe finds nothing on a page, in light and in dark, and no window makes a page scroll sideways."""
    visit.expected.append("status of 404")
    page = visit(shown.address, reduced_motion="reduce")  # colours do not fade from one to the other
    found: dict[str, list[str]] = {}
    for name in NAMES:
        page.emulate_media(color_scheme="light")
        page.goto(address_of(name, shown.address, shown.shop))
        assert page.title().endswith("The shop")
        found[name] = hindrances(page)
        page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = hindrances(page, CONTRAST)  # nothing but the colours is different
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 700})
            found[f"{name}, {width} wide"] = sideways(page)
    assert {name: what for name, what in found.items() if what} == {}
