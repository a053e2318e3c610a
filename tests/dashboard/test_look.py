"""The stylesheet and the script of the dashboard: what can be said of them without a browser."""

from __future__ import annotations

import gzip
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "neoq" / "dashboard" / "static"
CSS = (STATIC / "neoq.css").read_text(encoding="utf-8")
SCRIPT = (STATIC / "neoq.js").read_text(encoding="utf-8")
MARKS = "ready scheduled retrying running succeeded dead cancelled snoozed lost accent".split()


def colours() -> dict[str, tuple[str, str]]:
    """The custom properties that are a colour for light and one for dark."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", CSS)
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["text", "muted", *MARKS])
@pytest.mark.parametrize("behind", ["surface", "back", "sunken", "bad-tint", "warn-tint", "good-tint"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_word_can_be_read(name: str, behind: str, dark: bool) -> None:
    """Each colour of text has a contrast of 4.5:1 on each background that it may stand on."""
    known = colours()
    assert contrast(known[name][dark], known[behind][dark]) >= 4.5


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_edges_of_fields_can_be_seen(dark: bool) -> None:
    """The edge of a field and of a button has a contrast of 3:1 to what is around it."""
    known = colours()
    assert contrast(known["edge"][dark], known["surface"][dark]) >= 3
    assert contrast(known["accent"][dark], known["tint"][dark]) >= 3
    assert contrast(known["on-accent"][dark], known["accent"][dark]) >= 4.5


def test_nothing_is_fetched_from_elsewhere() -> None:
    """The stylesheet and the icon name no other file, which the Content-Security-Policy would refuse."""
    assert "url(" not in CSS
    assert "@import" not in CSS
    assert re.findall(r"(?:href|src)=", (STATIC / "icon.svg").read_text(encoding="utf-8")) == []


def test_motion_is_only_for_those_who_want_it() -> None:
    """Every animation and transition stands behind prefers-reduced-motion: no-preference."""
    calm, _, rest = CSS.partition("@media (prefers-reduced-motion: no-preference)")
    assert not re.search(r"\b(animation|transition):", calm)
    assert "animation:" in rest


def test_the_script_is_what_its_sources_make() -> None:
    """The script and its licences are what assets/assemble.py makes of the files whose hashes it knows."""
    made = runpy.run_path(str(ROOT / "assets" / "assemble.py"))
    assert made["script"]() == SCRIPT
    assert made["licenses"]() == (STATIC / "LICENSES.txt").read_text(encoding="utf-8")


def test_a_first_visit_is_small() -> None:
    """Script, stylesheet and icon leave 20 of 60 KB for the page itself."""
    sizes = [len(gzip.compress((STATIC / name).read_bytes())) for name in ("neoq.js", "neoq.css", "icon.svg")]
    assert sum(sizes) < 40_000
